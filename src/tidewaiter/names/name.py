"""Names: how they are spelled here, who said one, and what may be hidden behind it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

_HOST = re.compile(rb"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_OF_ADDRESSES = frozenset(b"0123456789abcdefABCDEFx.:[]%")
_LONGEST = 253
"""Of a name as text without its last dot (RFC 1035 section 2.3.4 allows 255 bytes on the wire)."""


def host_name(text: bytes) -> str:
    """A host name as it is kept: small letters, no dot at its end; "" for what is none, such as an address.

    What TLS and HTTP name are hosts: letters, digits, hyphens, and the underscore that the world uses all the
    same. Names of other scripts travel as ``xn--`` (RFC 5890), and stay so.
    """
    if len(text) > _LONGEST + 1 or not _HOST.fullmatch(text):
        return ""
    name = text.decode("ascii").lower().removesuffix(".")
    last = name.rpartition(".")[2]
    # A last part of digits makes it an IPv4 address in one of its spellings (WHATWG URL, host parsing).
    return "" if len(name) > _LONGEST or last.isdigit() or last.startswith("0x") else name


def is_address(text: bytes) -> bool:
    """Whether this is written like an address: programs that have no name for a host put that in its place."""
    return bool(text) and set(text) <= _OF_ADDRESSES


class By(StrEnum):
    """Who said the name."""

    DNS = "dns"
    TLS = "tls"
    QUIC = "quic"
    HTTP = "http"


class Hidden(StrEnum):
    """What cannot be seen from outside."""

    ECH = "ech"
    """An encrypted ClientHello is there: the name in the clear may be that of a front (RFC 9849)."""
    DOH = "doh"
    """DNS over HTTPS: which names it asks for."""
    DOT = "dot"
    """DNS over TLS (RFC 7858), or over QUIC (RFC 9250)."""
    HTTP2 = "http2"
    """HTTP/2 in the clear, whose header fields are compressed: not read here."""
    UNREADABLE = "unreadable"
    """It begins as something that would carry a name, and cannot be read: ``why`` says the reason."""


class Name(NamedTuple):
    """What a connection is called.

    ``name`` is "" where nobody said one. ``chain`` are the other names of the same thing: where DNS answered with
    aliases, each link in its order, so that a rule may match any. ``others`` are names that it may have instead,
    where DNS gave several the same address. ``protocols`` are what the client offers to speak (ALPN, RFC 7301).
    """

    name: str = ""
    by: By | None = None
    hidden: Hidden | None = None
    why: str = ""
    chain: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()


NO_NAME = Name()


def unreadable(why: str) -> Name:
    """Something that should carry a name and cannot be read, and why."""
    return Name(hidden=Hidden.UNREADABLE, why=why)
