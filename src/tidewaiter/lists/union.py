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

    # Loops, since a generator would cost as much as looking into a list.

    def contains_name(self, name: str) -> bool:
        """Whether a list has a host name, in any case, with or without the dot of the root."""
        for names in self._names:  # noqa: SIM110
            if name in names:
                return True
        return False

    def contains_address(self, address: Address) -> bool:
        """Whether a list has an address."""
        for networks in self._networks:  # noqa: SIM110
            if address in networks:
                return True
        return False

    @property
    def sizes(self) -> tuple[int, int]:
        """How many names, and ranges of addresses, the lists have; what is in two of them counts twice."""
        return sum(map(len, self._names)), sum(map(len, self._networks))
