"""Writes small files in MaxMind's format (MaxMind DB file format specification, version 2.0), for IPv4 alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any


def _encoded(value: Any) -> bytes:
    """A field of the data section: texts, numbers, tables of them, and lists."""
    match value:
        case str():
            return bytes([2 << 5 | len(value)]) + value.encode()
        case int():
            size = (value.bit_length() + 7) // 8
            return bytes([6 << 5 | size]) + value.to_bytes(size, "big")
        case list():
            return bytes([len(value), 11 - 7]) + b"".join(map(_encoded, value))
        case dict():
            pairs = [_encoded(key) + _encoded(one) for key, one in value.items()]
            return bytes([7 << 5 | len(pairs)]) + b"".join(pairs)
    raise TypeError(value)


def write_mmdb(path: Path, entries: Mapping[str, dict[str, Any]]) -> Path:
    """A file that says of each network what is given for it. Networks must not lie in one another."""
    nodes: list[list[Any]] = [[None, None]]
    data = b""
    for text, entry in entries.items():
        network = IPv4Network(text)
        at, bits = 0, f"{int(network.network_address):032b}"[: network.prefixlen]
        for bit in map(int, bits[:-1]):
            if nodes[at][bit] is None:
                nodes[at][bit] = len(nodes)
                nodes.append([None, None])
            at = nodes[at][bit]
        nodes[at][int(bits[-1])] = ("data", len(data))
        data += _encoded(entry)

    def record(value: Any) -> int:
        if value is None:
            return len(nodes)
        return value if isinstance(value, int) else len(nodes) + 16 + int(value[1])

    tree = b"".join(struct.pack("!II", *map(record, node)) for node in nodes)
    about = {
        "node_count": len(nodes),
        "record_size": 32,
        "ip_version": 4,
        "database_type": "test",
        "languages": ["en"],
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1,
        "description": {"en": "test"},
    }
    new = path.with_suffix(".new")
    new.write_bytes(tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + _encoded(about))
    return new.replace(path)
