"""Host names in the one form that lists keep: lower case, ASCII (IDNA), without the dot of the root."""

from __future__ import annotations

import re

from tidewaiter.model.international import in_ascii

LONGEST = 253
"""Bytes of a name, without the dot of the root (RFC 1035 section 2.3.4)."""

_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_EXCERPT = 40


def excerpt(text: str) -> str:
    """Foreign text for a message: quoted, without control characters, and not long."""
    return repr(text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…")


def canonical(text: str, single: bool = True) -> str:
    """A host name in the form that lists keep.

    Letters beyond ASCII are mapped as browsers do it (UTS 46, not transitional, so that ß stays itself) and
    encoded by IDNA 2008. Underscores are allowed: names in the DNS have them. ``single`` says whether a name
    of one label will do. Raises ValueError with a sentence for what is no host name.
    """
    name = text.removesuffix(".")
    if not name.isascii() and len(name) <= LONGEST:
        name = _encode(name)
    name = name.lower()
    if len(name) > LONGEST:
        raise ValueError(f"{excerpt(text)} is longer than {LONGEST} bytes, which no host name is")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{excerpt(text)} is no host name{_why(label)}")
    if labels[-1].isdigit():
        raise ValueError(f"{excerpt(text)} is no host name: its last part is a number")
    if not single and len(labels) == 1:
        raise ValueError(f"{excerpt(text)} is no host name of a domain: it has one part only")
    return name


def _encode(name: str) -> str:
    """A name with letters beyond ASCII, in ASCII. Raises ValueError."""
    try:
        return in_ascii(name)
    except ValueError as error:
        raise ValueError(f"{excerpt(name)} is no international host name: {error}") from None


def _why(label: str) -> str:
    if not label:
        return ": one of its parts is empty"
    if len(label) > 63:
        return ": one of its parts is longer than 63 bytes"
    wrong = next((character for character in label if not _LABEL.fullmatch(character)), label)
    return f": {wrong!r} cannot be in one"
