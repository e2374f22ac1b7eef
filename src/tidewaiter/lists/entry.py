"""What a line of a list can say: a name or a network, and whether it is listed or exempt."""

from __future__ import annotations

from enum import IntFlag
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Network = IPv4Network | IPv6Network


class Say(IntFlag):
    """What a list says about a name or a network. Where it says several things, the highest bit wins.

    These four bits are said about a name itself; shifted by four (`below`) about all names below it.
    """

    LISTED = 1
    EXEMPT = 2
    LISTED_FIRMLY = 4
    """Listed whatever is exempt (AdBlock: ``$important``)."""
    EXEMPT_FIRMLY = 8


SELF, BELOW = 1, 16
"""What `Say` is multiplied by to be about the name itself and about what is below it; a zone is both."""
ZONE = SELF | BELOW


def listed(flags: int) -> bool:
    """Whether the highest of the four bits says listed; not if there is none."""
    return flags.bit_length() & 1 == 1


class NameEntry(NamedTuple):
    """A name in canonical form. ``flags``: `Say` times `SELF`, `BELOW` or `ZONE`."""

    name: str
    flags: int


class NetworkEntry(NamedTuple):
    """A network. ``flags``: `Say`."""

    network: Network
    flags: int


Entry = NameEntry | NetworkEntry


class LineError(ValueError):
    """A line that means nothing in its format: the column where that shows, from 1, and a sentence."""

    def __init__(self, column: int, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column
        self.sentence = sentence


class ListError(ValueError):
    """A list that cannot be used: one sentence that says why."""
