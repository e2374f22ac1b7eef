"""Several lists as one: what is in any of them. An exception in one takes nothing from the others."""

from __future__ import annotations

from collections.abc import Iterable

from tidewaiter.lists.compiled import CompiledList
from tidewaiter.model.key import Address


class Union:
    """Answers for lists together; those without names, or without networks, are not asked about them."""

    __slots__ = ("_names", "_networks")

    def __init__(self, lists: Iterable[CompiledList] = ()) -> None:
        lists = tuple(lists)
        self._names = tuple(one.domains for one in lists if len(one.domains))
        self._networks = tuple(one.networks for one in lists if len(one.networks))

    @property
    def by_name(self) -> bool:
        """Whether a list has any names."""
        return bool(self._names)

    def has(self, packed: bytes, names: Iterable[str]) -> bool:
        """Whether a list has an address, in network order, or one of some host names.

        For each connection each list is asked: hence loops, since a generator would cost as much as looking into one.
        """
        for networks in self._networks:
            if networks.has(packed):
                return True
        for listed in self._names:
            for name in names:
                if name in listed:
                    return True
        return False

    def contains_name(self, name: str) -> bool:
        """Whether a list has a host name, in any case, with or without the dot of the root."""
        return any(name in names for names in self._names)

    def contains_address(self, address: Address) -> bool:
        """Whether a list has an address."""
        return any(address in networks for networks in self._networks)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many names, and ranges of addresses, the lists have; what is in two of them counts twice."""
        return sum(map(len, self._names)), sum(map(len, self._networks))
