"""The running firewall: one thread that drives the machine, and the faces that people program against.

`engine` is the loop (machine in, policy or your function decides, machine out), `firewall` the Python face with
and without asyncio, `report` turns what happens into the lines that every command prints. It brings together
`host`, `driver` and `policy`, and is imported by the commands and by the façade alone.
"""
