"""What a connection is called: read from DNS answers and from the first bytes that a program sends.

`dns` reads messages, `exchange` believes those that were asked for, `talk` follows connections to resolvers, `table`
remembers what they taught, by who asked (`askers`). `tls`, `quic` and `http` read the name out of a connection's first
bytes, `first` chooses among them, `readings` holds those of many connections, `called` says what comes of both. `namer`
does all of it for whoever has all packets, `live` for whoever holds some until it is known what they are called.
`resolvers` is what is known of DNS that hides itself. Like the driver, this part does no I/O and reads no clock: bytes
and ``now`` go in. All bytes are foreign, so every reader has a bound and an error of its own. Imports only ``model``.
"""
