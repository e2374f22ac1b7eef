"""What rules name in one dimension of the kernel's tables: from a value to the rules that it makes a difference to.

A rule is satisfied by any value, by those that it wants, or by all but those that it refuses. So for each dimension
there is one set of rules that are satisfied by what nobody names, and for each value that somebody names the rules that
it *turns*: those that want it, which are satisfied then, and those that refuse it, which are not any more. With that,
one exclusive or is all that it takes, for `not` as well.

Rules are bits here (`tidewaiter.policy.bits`). A change of one rule touches what that rule names.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any

from tidewaiter.model.key import Address
from tidewaiter.policy.index import bit_set
from tidewaiter.policy.rule import PortSpan
from tidewaiter.policy.scopes import Network

_FEW = 6
_V6 = 1 << 128
"""What is added to the number of an IPv6 address, so that both versions are on one line."""

PORT_WIDTH = 24
"""Bits of the number of a port: the protocol (8 bits), then the port (16 bits)."""

Prefix = int
"""A number whose low bits are 0, and in the lowest eight bits how many of its high bits count."""


class Named:
    """The values of one dimension that some rule names."""

    def __init__(self) -> None:
        """Empty: no rule names anything."""
        self.wanting = 0
        """The rules that name what they want."""
        self.refusing = 0
        """Those that name what they refuse."""
        self._wanted: dict[Any, list[int]] = {}
        self._refused: dict[Any, list[int]] = {}
        self._touched: set[Any] = set()
        self._coming: tuple[list[int], list[int]] = [], []

    def __len__(self) -> int:
        return len(self.keys())

    @property
    def looking(self) -> int:
        """The rules that name anything."""
        return self.wanting | self.refusing

    def keys(self) -> set[Any]:
        """All values that are named."""
        return {*self._wanted, *self._refused}

    def add(self, bit: int, wanted: Collection[Any], refused: Collection[Any]) -> None:
        """A rule comes, with what it names, each once. `entered` before anything is asked."""
        for keys, table, coming in (
            (wanted, self._wanted, self._coming[0]),
            (refused, self._refused, self._coming[1]),
        ):
            if not keys:
                continue
            coming.append(bit)
            self._touched.update(keys)
            for key in keys:
                bits = table.get(key)
                if bits is None:
                    table[key] = [bit]
                else:
                    bits.append(bit)

    def entered(self, length: int) -> None:
        """All that come at once have come; their bits are below ``length``."""
        wanting, refusing = self._coming
        self.wanting |= bit_set(wanting, length)
        self.refusing |= bit_set(refusing, length)
        self._coming = [], []

    def remove(self, bit: int, wanted: Collection[Any], refused: Collection[Any]) -> None:
        """A rule leaves, with the same."""
        for table, keys in ((self._wanted, wanted), (self._refused, refused)):
            for key in keys:
                table[key].remove(bit)
                if not table[key]:
                    del table[key]
                self._touched.add(key)
        self.wanting &= ~(1 << bit)
        self.refusing &= ~(1 << bit)

    def changed(self) -> set[Any]:
        """The values that turn other rules since the last call, with those that nobody names any more."""
        touched, self._touched = self._touched, set()
        return touched

    def settle(self) -> None:
        """What has changed so far is known."""
        self._touched.clear()

    def turned(self, keys: Iterable[Any]) -> Iterator[tuple[Any, int | None]]:
        """For each value the rules that it turns; None for one that nobody names any more."""
        kept: dict[Any, tuple[int, int]] = {}
        for key in keys:
            if key in self._wanted or key in self._refused:
                yield key, self._turned(key, kept)
            else:
                yield key, None

    def turned_by(self, value: Any) -> int:  # noqa: ANN401 # a value of this dimension
        """The rules that one value of a connection turns."""
        return self._turned(value, {})

    def _turned(self, key: Any, kept: dict[Any, tuple[int, int]]) -> int:  # noqa: ANN401
        """The same; ``kept`` are the rules that name what covers many values."""
        wanted = refused = 0
        for one in self._covering(key):
            found = kept.get(one)
            if found is None:
                bits = self._wanted.get(one, ()), self._refused.get(one, ())
                found = _union(bits[0]), _union(bits[1])
                if len(bits[0]) + len(bits[1]) > _FEW:
                    kept[one] = found
            wanted |= found[0]
            refused |= found[1]
        return (wanted & ~refused | refused & ~self.wanting) if refused else wanted

    def _covering(self, key: Any) -> Iterable[Any]:  # noqa: ANN401
        """What is true of a value: itself."""
        return (key,)


class Prefixes(Named):
    """The same for numbers, of which rules name prefixes: each holds for all that it covers, named or not.

    ``width`` says how many bits a number has.
    """

    def __init__(self, width: Callable[[int], int]) -> None:
        """Empty."""
        super().__init__()
        self._width = width
        self._lengths: dict[int, Counter[int]] = {}
        self._order: list[Prefix] | None = None

    def add(self, bit: int, wanted: Collection[Prefix], refused: Collection[Prefix]) -> None:
        """A rule comes, with what it names."""
        for key in {*wanted, *refused} if wanted and refused else wanted or refused:
            if key not in self._wanted and key not in self._refused:
                self._count(key, 1)
        super().add(bit, wanted, refused)

    def remove(self, bit: int, wanted: Collection[Prefix], refused: Collection[Prefix]) -> None:
        """A rule leaves, with the same."""
        super().remove(bit, wanted, refused)
        for key in {*wanted, *refused}:
            if key not in self._wanted and key not in self._refused:
                self._count(key, -1)

    def changed(self) -> set[Prefix]:
        """The prefixes that turn other rules since the last call: with each, all that it covers."""
        found = super().changed()
        if found and self._order is None:
            self._order = sorted(self.keys())
        for key in tuple(found):
            assert self._order is not None
            end = key + (1 << self._width(key >> 8) - (key & 255) + 8) & ~255
            found.update(self._order[bisect_left(self._order, key) : bisect_left(self._order, end)])
        return found

    def turned_by(self, value: int) -> int:
        """The rules that a number turns."""
        return super().turned_by(value << 8 | self._width(value))

    def _covering(self, key: Prefix) -> Iterator[Prefix]:
        number, length = key >> 8, key & 255
        width = self._width(number)
        for other in self._lengths.get(width, ()):
            if other <= length:
                one = number >> width - other << width - other + 8 | other
                if one in self._wanted or one in self._refused:
                    yield one

    def _count(self, key: Prefix, by: int) -> None:
        if self._order is not None and by > 0:
            insort(self._order, key)
        elif self._order is not None:
            del self._order[bisect_left(self._order, key)]
        width = self._width(key >> 8)
        if width not in self._lengths:
            self._lengths[width] = Counter()
        lengths = self._lengths[width]
        lengths[key & 255] += by
        if not lengths[key & 255]:
            del lengths[key & 255]


def address_width(number: int) -> int:
    """Bits of the number of an address."""
    return 128 if number >= _V6 else 32


def address_number(address: Address) -> int:
    """The number of an address, of both versions on one line."""
    return int(address) if type(address) is IPv4Address else int(address) + _V6


def network_prefix(network: Network) -> Prefix:
    """A network as a prefix."""
    return address_number(network.network_address) << 8 | network.prefixlen


def prefix_network(prefix: Prefix) -> tuple[int, bytes, int]:
    """The IP version of a prefix, the bytes of its address, and its length."""
    number, length = prefix >> 8, prefix & 255
    return (
        (6, (number - _V6).to_bytes(16, "big"), length)
        if number >= _V6
        else (4, number.to_bytes(4, "big"), length)
    )


def port_prefixes(span: PortSpan) -> Iterator[Prefix]:
    """The prefixes over protocol and port that a span is made of."""
    for protocol in span.protocols:
        low, end = span.low, span.high + 1
        while low < end:
            # The largest block that begins at low: by its alignment, and by what is left.
            size = min(low & -low or 1 << 16, 1 << (end - low).bit_length() - 1)
            yield (protocol << 16 | low) << 8 | PORT_WIDTH - size.bit_length() + 1
            low += size


def _union(bits: Sequence[int]) -> int:
    """Bits as one set."""
    if len(bits) > _FEW:
        return bit_set(bits, max(bits) + 1)
    found = 0
    for bit in bits:
        found |= 1 << bit
    return found
