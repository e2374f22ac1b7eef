"""Who resolves names: programs of this host, and the services that do it where nobody can look.

Which services offer DNS over HTTPS is known by their names and addresses only; these are the well known ones, as
their operators publish them. A policy may use them, and add its own.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from tidewaiter.model.key import Address
from tidewaiter.model.name import Hidden, Name

DOT_PORT = 853
"""DNS over TLS (RFC 7858, TCP) and over QUIC (RFC 9250, UDP)."""

_HTTPS_PORT = 443

PROTOCOLS = {"dot": Hidden.DOT, "doq": Hidden.DOT}
"""What a client offers (ALPN) that wants to speak DNS: RFC 7858 as registered by IANA, RFC 9250."""

ZONES = frozenset(
    [
        "adguard-dns.com",
        "adguard-dns.io",
        "dns.adguard.com",
        "adguard.ch",
        "cloudflare-dns.com",
        "cloudflare-gateway.com",
        "one.one.one.one",
        "dns.google",
        "dns.google.com",
        "8888.google",
        "quad9.net",
        "doh.opendns.com",
        "doh.familyshield.opendns.com",
        "doh.sandbox.opendns.com",
        "doh.umbrella.com",
        "dns.umbrella.com",
        "dns.nextdns.io",
        "doh.nextdns.io",
        "cleanbrowsing.org",
        "dns.controld.com",
        "freedns.controld.com",
        "dns.mullvad.net",
        "doh.mullvad.net",
        "dns.sb",
        "doh.sb",
        "doh.libredns.gr",
        "doh.applied-privacy.net",
        "dns.digitale-gesellschaft.ch",
        "doh.ffmuc.net",
        "dot.ffmuc.net",
        "dnsforge.de",
        "dns.njal.la",
        "ordns.he.net",
        "odvr.nic.cz",
        "wikimedia-dns.org",
        "dns0.eu",
        "dns.switch.ch",
        "private.canadianshield.cira.ca",
        "protected.canadianshield.cira.ca",
        "family.canadianshield.cira.ca",
        "doh.xfinity.com",
        "doh.cox.net",
        "dns.alidns.com",
        "doh.pub",
        "dot.pub",
        "dns.pub",
        "doh.360.cn",
        "dot.360.cn",
        "public.dns.iij.jp",
        "dns.twnic.tw",
        "common.dot.dns.yandex.net",
        "safe.dot.dns.yandex.net",
        "family.dot.dns.yandex.net",
        "doh.dns.apple.com",
    ]
)
"""Names of services that resolve in secret, each with everything below it."""

ADDRESSES: frozenset[Address] = frozenset(
    map(
        ip_address,
        [
            "1.1.1.1",
            "1.0.0.1",
            "1.1.1.2",
            "1.0.0.2",
            "1.1.1.3",
            "1.0.0.3",
            "2606:4700:4700::1111",
            "2606:4700:4700::1001",
            "2606:4700:4700::1112",
            "2606:4700:4700::1002",
            "2606:4700:4700::1113",
            "2606:4700:4700::1003",
            "8.8.8.8",
            "8.8.4.4",
            "2001:4860:4860::8888",
            "2001:4860:4860::8844",
            "9.9.9.9",
            "149.112.112.112",
            "9.9.9.10",
            "149.112.112.10",
            "9.9.9.11",
            "149.112.112.11",
            "2620:fe::fe",
            "2620:fe::9",
            "2620:fe::10",
            "2620:fe::11",
            "208.67.222.222",
            "208.67.220.220",
            "208.67.222.123",
            "208.67.220.123",
            "2620:119:35::35",
            "2620:119:53::53",
            "94.140.14.14",
            "94.140.15.15",
            "94.140.14.15",
            "94.140.15.16",
            "94.140.14.140",
            "94.140.14.141",
            "2a10:50c0::ad1:ff",
            "2a10:50c0::ad2:ff",
            "185.228.168.9",
            "185.228.169.9",
            "185.228.168.168",
            "185.228.169.168",
            "194.242.2.2",
            "194.242.2.3",
            "194.242.2.4",
            "76.76.2.0",
            "76.76.10.0",
            "45.90.28.0",
            "45.90.30.0",
            "223.5.5.5",
            "223.6.6.6",
            "2400:3200::1",
            "2400:3200:baba::1",
            "101.101.101.101",
            "101.102.103.104",
        ],
    )
)
"""Addresses of such services, which answer DNS over HTTPS and over TLS without being asked by name."""

PROGRAMS = frozenset(
    ("systemd-resolved", "nscd", "nsncd", "dnsmasq", "unbound", "named", "avahi-daemon", "dnscrypt-proxy")
)
"""File names of programs that ask on behalf of others: what they learn is for all (`Asker` without a program)."""


def may_hide(port: int) -> bool:
    """Whether a connection to this port may be DNS in secret by what is known of its ends alone."""
    return port in (_HTTPS_PORT, DOT_PORT)


@lru_cache(maxsize=4096)
def resolves_in_secret(name: str) -> bool:
    """Whether a name is that of a known service, or below it."""
    while name:
        if name in ZONES:
            return True
        name = name.partition(".")[2]
    return False


class EncryptedDns:
    """These names and addresses as a list that rules may name."""

    by_name = True

    def has(self, packed: bytes, names: tuple[str, ...]) -> bool:
        """Whether an address, in network order, or one of some names is in it."""
        return packed in _PACKED or any(map(resolves_in_secret, names))

    def contains_name(self, name: str) -> bool:
        """Whether a name is, in small letters and without a dot at its end."""
        return resolves_in_secret(name)

    def contains_address(self, address: Address) -> bool:
        """Whether an address is."""
        return address in ADDRESSES


_PACKED = frozenset(address.packed for address in ADDRESSES)


def asks_for_others(program: str) -> bool:
    """Whether the program with this path is known to resolve for others."""
    return program.rpartition("/")[2] in PROGRAMS


def encrypted_dns(port: int, remote: Address | None, name: Name) -> Hidden | None:
    """Whether a connection to ``remote`` and ``port``, called so, carries DNS in secret, as far as one can tell."""
    for protocol in name.protocols:
        if protocol in PROTOCOLS:
            return PROTOCOLS[protocol]
    if port == DOT_PORT:
        return Hidden.DOT
    if any(map(resolves_in_secret, (name.name, *name.chain))):
        return Hidden.DOH
    return Hidden.DOH if port == _HTTPS_PORT and remote in ADDRESSES else None
