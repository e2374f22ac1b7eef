"""The lab's map: its addresses, names and ports, and the environment that tells a command about them.

Every service listens on every server address; the names spread them so that each has addresses of its own.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Pair(NamedTuple):
    """The IPv4 and the IPv6 address of one place, as text."""

    v4: str
    v6: str


class Port(enum.IntEnum):
    """The fixed ports of the lab's servers, the well-known ones."""

    ECHO = 7
    DNS = 53
    HTTP = 80
    TLS = 443


LINK = "lab0"
"""The name of the cable's end in either namespace."""

PREFIX = Pair("24", "64")
"""The lengths of the network prefixes, in bits."""

CLIENT = Pair("10.77.0.1", "fd77::1")
SERVERS = tuple(Pair(f"10.77.0.{last}", f"fd77::{last}") for last in (10, 11, 12, 13))
WEB, TLS, ECHO, DNS = SERVERS

NAMES: dict[str, tuple[Pair, ...]] = {
    "web.lab": (WEB,),
    "tls.lab": (TLS,),
    "echo.lab": (ECHO,),
    "dns.lab": (DNS,),
    "all.lab": SERVERS,
    "client.lab": (CLIENT,),
}
"""What the lab's DNS knows; every name has addresses of both families."""

CERTIFICATE = "ca.pem"
"""The file of the servers' certificate: self-signed, so it is also the authority to trust."""

READY = "ready"
"""The line by which the servers say that all of them listen."""

_VARIABLES = {
    "LAB_HTTP": ("http://{}/", WEB, Port.HTTP),
    "LAB_TLS": ("https://{}/", TLS, Port.TLS),
    "LAB_DNS": ("{}", DNS, Port.DNS),
    "LAB_TCP_ECHO": ("{}", ECHO, Port.ECHO),
    "LAB_UDP_ECHO": ("{}", ECHO, Port.ECHO),
}


def environment() -> dict[str, str]:
    """Where the servers are: ``LAB_HTTP`` and so on, and each again with the suffix 6 for IPv6."""
    variables = {}
    for name, (form, place, port) in _VARIABLES.items():
        variables[name] = form.format(f"{place.v4}:{port:d}")
        variables[name + "6"] = form.format(f"[{place.v6}]:{port:d}")
    return variables
