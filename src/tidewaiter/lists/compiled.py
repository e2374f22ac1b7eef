"""A list ready for use, and its form in a file: header, names, networks, checksum.

The file is for this machine and this version alone. A program that starts maps it instead of reading the list
again; what is damaged, or of another version, is refused, and the list is read again. It begins with a line of
magic that has the version and the byte order, then the length of the header in four bytes, the header (JSON:
format, counts, the caller's notes, lengths of the parts), the parts, and BLAKE2b of all that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from tidewaiter.lists.domains import Bytes, DomainSet
from tidewaiter.lists.domains import build as build_domains
from tidewaiter.lists.networks import NetworkSet
from tidewaiter.model.key import Address

MAGIC = f"tidewaiter list 1 {sys.byteorder}\n".encode()
_CHECK = 16


@dataclass(frozen=True, slots=True)
class Counts:
    """What reading a list came to: lines, those with entries, those that list nothing, and bad ones.

    ``messages`` are about the first bad lines, a sentence each.
    """

    lines: int = 0
    entries: int = 0
    skipped: int = 0
    bad: int = 0
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledList:
    """A list: names and networks, the format that it came in, and what reading it came to."""

    format: str = "domains"
    domains: DomainSet = field(default_factory=lambda: build_domains(bytearray(), 0))
    networks: NetworkSet = field(default_factory=NetworkSet)
    counts: Counts = Counts()

    def contains_name(self, name: str) -> bool:
        """Whether a host name is listed, in any case, with or without the dot of the root."""
        return name in self.domains

    def contains_address(self, address: Address) -> bool:
        """Whether an address is listed."""
        return address in self.networks


def dump(one: CompiledList, notes: dict[str, Any]) -> Iterator[Bytes]:
    """The parts of the file, in order. ``notes`` is what the caller wants back from `load`: JSON."""
    parts = (one.domains.image, one.networks.ranges4, one.networks.ranges6)
    header = json.dumps(
        {
            "format": one.format,
            "counts": asdict(one.counts),
            "notes": notes,
            "parts": [len(part) for part in parts],
        }
    ).encode()
    check = blake2b(digest_size=_CHECK)
    for piece in (MAGIC, len(header).to_bytes(4, "big"), header, *parts):
        check.update(piece)
        yield piece
    yield check.digest()


def load(file: memoryview) -> tuple[CompiledList, dict[str, Any]]:
    """The list in a file's bytes, which it goes on using, and the notes. Raises ValueError for anything else."""
    start = len(MAGIC) + 4
    if bytes(file[: len(MAGIC)]) != MAGIC or len(file) < start + _CHECK:
        raise ValueError("this is no compiled list of this version")
    if blake2b(file[:-_CHECK], digest_size=_CHECK).digest() != bytes(file[-_CHECK:]):
        raise ValueError("this compiled list is damaged")
    at = start + int.from_bytes(file[len(MAGIC) : start], "big")
    header = json.loads(bytes(file[start:at]))
    parts = []
    for size in header["parts"]:
        parts.append(file[at : at + size])
        at += size
    counts = Counts(**{**header["counts"], "messages": tuple(header["counts"]["messages"])})
    found = CompiledList(header["format"], DomainSet(parts[0]), NetworkSet(parts[1], parts[2]), counts)
    return found, header["notes"]
