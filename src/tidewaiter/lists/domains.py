"""A set of host names: a million in some thirty bytes each, exactly, found within a microsecond.

Three parts, one behind the other. *Records*: length, flags, and the name backwards, so that the zones a name is
in are its beginnings. *Slots*: a hash table (linear probing, at most three quarters full) under a secret key, so
that no list can be written whose names all meet in one place: a tag of one byte for each slot, then the records'
places. *Trailer*: key, sizes, and how many labels names have, so that nothing is looked for that cannot be there.
A name that is found is compared as a whole: no name is ever taken for another.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator

from tidewaiter.lists import _native
from tidewaiter.lists.entry import NameEntry, listed
from tidewaiter.lists.names import canonical

Bytes = bytes | bytearray | memoryview

TRAILER = struct.Struct("=16s5QI4x")
"""Key, bytes of the records, names, labels of names, labels of zones, nearest, slots (native/domains.c)."""


def record(entry: NameEntry) -> bytes:
    """A name as the set keeps it."""
    name = entry.name[::-1].encode("ascii")
    return bytes((len(name), entry.flags)) + name


def build(records: bytearray, count: int, nearest: bool = False) -> DomainSet:
    """The set of ``count`` records at most, which it uses up. Raises ValueError for what are none.

    ``nearest``: what the nearest of a name's zones says counts alone; otherwise all of them are heard, and
    the highest bit of `Say` wins.
    """
    slots = 1 << max(4 * count // 3, 1).bit_length()
    table, key = bytearray(5 * slots), secrets.token_bytes(16)
    names, selves, zones = _native.index(records, table, key)
    size = len(records)
    records += table
    records += TRAILER.pack(key, size, names, selves, zones, nearest, slots)
    return DomainSet(records)


class DomainSet:
    """Names, zones and exceptions, in the bytes that `build` makes; `image` is all of them.

    Raises ValueError for bytes that are no such set.
    """

    __slots__ = ("_names", "_records", "image")

    def __init__(self, image: Bytes) -> None:
        if len(image) < TRAILER.size:
            raise ValueError("these bytes are no set of names")
        _, self._records, self._names, _, _, _, slots = TRAILER.unpack(image[-TRAILER.size :])
        if self._records + 5 * slots + TRAILER.size != len(image):
            raise ValueError("these bytes are no set of names")
        self.image = image

    def __len__(self) -> int:
        """How many names and zones were given, those that are exempt too."""
        return int(self._names)

    def __contains__(self, name: str) -> bool:
        """Whether a name is listed. What is no host name is in no list."""
        try:
            flags = _native.find(self.image, name)
            if flags < 0:
                flags = _native.find(self.image, canonical(name))
        except ValueError:  # UnicodeError is one
            return False
        return flags != 0 and listed(flags)

    def __iter__(self) -> Iterator[NameEntry]:
        """Each name once, in the order of the list."""
        at = 0
        while at < self._records:
            size, flags = self.image[at], self.image[at + 1]
            yield NameEntry(bytes(self.image[at + 2 : at + 2 + size]).decode("ascii")[::-1], flags)
            at += 2 + size
