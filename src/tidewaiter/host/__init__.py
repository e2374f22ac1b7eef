"""The live Linux machine: its network namespaces, control groups, hold rules, packet queue and sockets.

This is the only layer that talks to the running system. It may import ``kernel``, ``driver``, ``policy``, ``names``,
``protocol`` and ``model``; nothing of those imports it.
"""
