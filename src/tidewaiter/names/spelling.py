"""How names are spelled here, and what is none."""

from __future__ import annotations

import re

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
