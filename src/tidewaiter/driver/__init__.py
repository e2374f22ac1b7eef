"""The driver's core: what the kernel extension does, without any input or output of its own.

It takes events (a packet is held, a connection was established, has ended, a verdict came) and the time, and
returns actions (remember this verdict, release that packet, answer it with a refusal). The same core runs on
the live host, on a recorded capture and in a simulation. `layers` is the table of the hooks, `packets` the
cache of held packets, `core` the driver itself. Imports `tidewaiter.model` and `protocol`
only, never `host` or `kernel`.
"""
