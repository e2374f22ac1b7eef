"""The wire between the driver and its owner: two streams over one device.

*Infos* (info.py, read by stream.py) go from the driver to the owner, *commands* (command.py) from the
owner to the driver, and text.py shows both as JSON lines. Everything here turns bytes into values and
back: it does no I/O, reads no clock, and imports the model only. Each side can be written in another
language from docs/reference/wire.md alone. Errors (errors.py) are split by who made them.
"""
