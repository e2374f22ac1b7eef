"""The lists of OpenSnitch, read as it does: what it makes nothing of lists nothing, and is not bad.

Its lists of domains are hosts files of which the lines with 0.0.0.0 and 127.0.0.1 count, one name each; ``*.x`` and
``.x`` there are what is below x. Its lists of networks and addresses pass over the bits behind a prefix.
(daemon/rule/operator_lists.go of OpenSnitch.) Comments begin with ``#``.
"""

from __future__ import annotations

from ipaddress import ip_network

from tidewaiter.lists.entry import BELOW, SELF, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.format import Format, words
from tidewaiter.lists.formats.networks import network
from tidewaiter.lists.names import canonical

_ADDRESSES = ("0.0.0.0", "127.0.0.1")  # noqa: S104 # stands in well-known lists
_SCOPES = {"*.": Say.LISTED * BELOW, ".": Say.LISTED * BELOW, "": Say.LISTED * SELF}
_NOT_LISTED = frozenset(("local", "localhost", "localhost.localdomain", "broadcasthost"))


def parse_domains(line: str) -> list[NameEntry]:
    """What a line of a list of domains lists."""
    match [word for _, word in words(line, "#")]:
        case [address, text] if address in _ADDRESSES and text not in _NOT_LISTED:
            prefix = next(prefix for prefix in _SCOPES if text.startswith(prefix))
            try:
                return [NameEntry(canonical(text[len(prefix) :]), _SCOPES[prefix])]
            except ValueError:
                return []
    return []


def parse_networks(line: str) -> list[NetworkEntry]:
    """What a line of a list of networks or addresses lists. What is every address is its two halves."""
    found = [word for _, word in words(line, "#")]
    if len(found) != 1 or "%" in found[0]:
        return []
    try:
        whole = ip_network(found[0], strict=False)
    except ValueError:
        return []
    parts = [whole] if whole.prefixlen else whole.subnets()
    return [NetworkEntry(network(str(part)), Say.LISTED) for part in parts]


OPENSNITCH_DOMAINS = Format(
    "opensnitch-domains",
    lambda: parse_domains,
    "#",
    "#",
    tuple(
        (f"{address} {prefix}".encode(), b"", flags, bool(prefix))
        for address in _ADDRESSES
        for prefix, flags in _SCOPES.items()
    ),
)
OPENSNITCH_NETWORKS = Format("opensnitch-networks", lambda: parse_networks, "#", "#", networks=True)
