"""What a policy has besides rules and what its rules refer to: where lists come from, and which network is which."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tidewaiter.model.key import Address
from tidewaiter.policy.scopes import Network

LIST_FORMATS = (
    "hosts", "domains", "zones", "adblock", "rpz", "dnsmasq", "networks", "opensnitch-domains", "opensnitch-networks",
)  # fmt: skip
"""The formats of lists, of which `tidewaiter.lists` has the readers."""

BUILT_IN = ("encrypted-dns",)
"""The lists that are there without a ``[list.NAME]``, which may give them another content."""

REFRESH = 12 * 3600
"""Seconds after which servers are asked for a newer list, where the policy does not say."""


@dataclass(frozen=True, slots=True)
class ListSource:
    """Where a list comes from: ``paths`` of files or patterns for them, and ``urls``.

    ``format`` is one of `LIST_FORMATS`, or "" to find out by looking. ``refresh`` in seconds: how often the servers
    behind the URLs are asked for a newer version.
    """

    paths: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    format: str = ""
    refresh: int = REFRESH


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """What tells a network: an interface, a gateway, a Wi-Fi name. Each that is named has to be there."""

    interfaces: tuple[str, ...] = ()
    gateways: tuple[Network, ...] = ()
    wifi: tuple[str, ...] = ()

    def is_here(self, interfaces: tuple[str, ...], gateways: tuple[Address, ...], wifi: str) -> bool:
        """Whether this host, with these interfaces up and these gateways, is in that network."""
        return (
            (
                not self.interfaces
                or any(fnmatchcase(one, way) for one in interfaces for way in self.interfaces)
            )
            and (not self.gateways or any(one in network for one in gateways for network in self.gateways))
            and (not self.wifi or wifi in self.wifi)
        )
