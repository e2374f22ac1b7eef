"""What a connection is called: who said its name, and what may be hidden behind it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


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
