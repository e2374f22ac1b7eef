"""Scopes of addresses: which networks a word like ``lan`` stands for. Each address has exactly one scope.

The networks are those of IANA's registries of special-purpose addresses (RFC 6890): loopback, link-local, private and
shared, multicast. What is in none of them is the internet.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

_OWN = {
    "localhost": ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"),
    "link": ("169.254.0.0/16", "fe80::/10"),
    "lan": ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "multicast": ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"),
}


def without(networks: list[Network], taken: Network) -> list[Network]:
    """The same addresses without those of another network."""
    left: list[Network] = []
    for network in networks:
        if network.version != taken.version or not network.overlaps(taken):
            left.append(network)
        elif not network.subnet_of(taken):  # type: ignore[arg-type]  # of one version
            left.extend(network.address_exclude(taken))  # type: ignore[arg-type]
    return left


def _scopes() -> dict[str, tuple[Network, ...]]:
    scopes: dict[str, tuple[Network, ...]] = {
        word: tuple(map(ip_network, networks)) for word, networks in _OWN.items()
    }
    rest: list[Network] = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    for networks in scopes.values():
        for network in networks:
            rest = without(rest, network)
    return scopes | {"internet": tuple(sorted(rest, key=lambda one: (one.version, one.network_address)))}


SCOPES = _scopes()
"""Scope to its networks: ``localhost``, ``link``, ``lan``, ``multicast``, ``internet``."""


def scope_of(address: IPv4Address | IPv6Address) -> str:
    """The word for the scope of an address."""
    return next(word for word, networks in SCOPES.items() if any(address in network for network in networks))
