"""A private world to try Tidewaiter in: a client and an "internet" joined by one cable, with real servers.

``plan`` says which addresses, names and ports there are, ``world`` builds and describes a world, ``servers``
(with ``http`` and ``dns``) is the one process that answers in it, and ``janitor`` is the one that takes
everything away again, even when the owner was killed. It may import ``host`` and what lies below;
nothing is imported here, so that the janitor and the servers start quickly.
"""
