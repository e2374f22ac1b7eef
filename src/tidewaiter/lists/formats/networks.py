"""Addresses, networks and ranges, one a line: ``192.0.2.1``, ``2001:db8::/32``, ``192.0.2.1 - 192.0.2.9``.

Comments begin with ``#`` or ``;``. A network with bits behind its prefix is an error, since it says two things;
so is one that has every address, which no list can mean.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import chain

from tidewaiter.lists.entry import LineError, Network, NetworkEntry, Say
from tidewaiter.lists.formats.format import Format, words
from tidewaiter.lists.names import excerpt
from tidewaiter.lists.networks import NetworkSet, unmapped


def network(text: str) -> Network:
    """An address or a network. Raises ValueError with a sentence."""
    address, slash, length = text.partition("/")
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3):
        raise ValueError(f"{excerpt(text)} is no network: the length of its prefix is not a number")
    try:
        if "%" in address:
            raise ValueError
        first = ip_address(address)
    except ValueError:
        raise ValueError(f"{excerpt(text)} is no address and no network") from None
    bits = int(length) if slash else first.max_prefixlen
    if bits > first.max_prefixlen:
        raise ValueError(f"{excerpt(text)} is no network: a prefix has at most {first.max_prefixlen} bits")
    if not bits:
        raise ValueError(f"{excerpt(text)} is every address")
    whole: Network = ip_network((first.packed, bits), strict=False)
    if whole.network_address != first:
        raise ValueError(f"{excerpt(text)} has bits behind its prefix: write {whole} or {first}")
    return unmapped(whole)


def span(first: str, last: str) -> list[Network]:
    """The networks from one address to another, both included. Raises ValueError with a sentence."""
    ends = [network(first), network(last)]
    low, high = (one.network_address for one in ends)
    if any(one.num_addresses != 1 for one in ends) or low.version != high.version:
        raise ValueError(f"{excerpt(f'{first}-{last}')} is no range: write two addresses of one family")
    if int(low) > int(high):
        raise ValueError(f"{excerpt(f'{first}-{last}')} is no range: it ends before it begins")
    both = low.packed + high.packed
    found = list(NetworkSet(both) if low.version == 4 else NetworkSet(b"", both))
    if not found[0].prefixlen:
        raise ValueError(f"{excerpt(f'{first}-{last}')} is every address")
    return found


def parse(line: str) -> list[NetworkEntry]:
    """What a line lists. Raises LineError."""
    found = list(words(line, "#;"))
    if not found:
        return []
    parts = list(chain.from_iterable(word.replace("-", " - ").split() for _, word in found))
    try:
        match parts:
            case [one]:
                return [NetworkEntry(network(one), Say.LISTED)]
            case [first, "-", last]:
                return [NetworkEntry(one, Say.LISTED) for one in span(first, last)]
    except ValueError as error:
        raise LineError(found[0][0], str(error)) from None
    column, word = found[min(1, len(found) - 1)]
    raise LineError(column, f"{excerpt(word)} is too much: write one network a line")


NETWORKS = Format("networks", lambda: parse, "#;", "#;", networks=True)
