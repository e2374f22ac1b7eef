"""A set of networks: ranges of addresses in order, eight bytes each for IPv4 and 32 for IPv6, found by bisection."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from tidewaiter.lists import _native
from tidewaiter.lists.entry import Network, NetworkEntry
from tidewaiter.model.key import Address

Bytes = bytes | bytearray | memoryview

_MAPPED = bytes(10) + b"\xff\xff"
"""What IPv4 addresses begin with where IPv6 carries them (RFC 4291 section 2.5.5.2)."""


def record(entry: NetworkEntry) -> bytes:
    """A network as `build` takes it: first address, length of the prefix, flags."""
    network = entry.network
    return network.network_address.packed + bytes((network.prefixlen, entry.flags))


def unmapped(network: Network) -> Network:
    """The IPv4 network that an IPv6 network carries, if it does."""
    packed = network.network_address.packed
    if len(packed) == 4 or network.prefixlen < 96 or not packed.startswith(_MAPPED):
        return network
    return IPv4Network((packed[12:], network.prefixlen - 96))


def build(records4: bytearray, records6: bytearray) -> NetworkSet:
    """The set of records of both families, which it sorts. Raises ValueError for what are none.

    A network inside of another one counts more: what a list says about the longest prefix holds.
    """
    return NetworkSet(_native.flatten(records4, 4), _native.flatten(records6, 16))


class NetworkSet:
    """Ranges of addresses that are sorted and do not touch: all first addresses in network order, then all last ones.

    Raises ValueError for bytes that cannot be such ranges.
    """

    __slots__ = ("ranges4", "ranges6")

    def __init__(self, ranges4: Bytes = b"", ranges6: Bytes = b"") -> None:
        if len(ranges4) % 8 or len(ranges6) % 32:
            raise ValueError("these bytes are no ranges of addresses")
        self.ranges4 = ranges4
        self.ranges6 = ranges6

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self.ranges4) // 8 + len(self.ranges6) // 32

    def __contains__(self, address: Address) -> bool:
        """Whether an address is listed. An IPv4 address that IPv6 carries is that IPv4 address."""
        return self.has(address.packed)

    def has(self, packed: bytes) -> bool:
        """The same for an address as its bytes in network order."""
        if len(packed) == 4:
            return _native.inside(self.ranges4, packed)
        if packed.startswith(_MAPPED):
            return _native.inside(self.ranges4, packed[12:])
        return _native.inside(self.ranges6, packed)

    def prefixes(self, version: int) -> Iterator[tuple[int, int]]:
        """The fewest prefixes that are the ranges of a family, in order: address as a number, and length."""
        ranges, width = (self.ranges4, 4) if version == 4 else (self.ranges6, 16)
        half = len(ranges) // 2
        for at in range(0, half, width):
            first = int.from_bytes(ranges[at : at + width], "big")
            end = int.from_bytes(ranges[half + at : half + at + width], "big") + 1
            while first < end:
                bits = (end - first).bit_length() - 1
                if first:
                    bits = min(bits, (first & -first).bit_length() - 1)
                yield first, 8 * width - bits
                first += 1 << bits

    def __iter__(self) -> Iterator[Network]:
        """The same as networks, IPv4 first."""
        for number, length in self.prefixes(4):
            yield IPv4Network((number, length))
        for number, length in self.prefixes(6):
            yield IPv6Network((number, length))
