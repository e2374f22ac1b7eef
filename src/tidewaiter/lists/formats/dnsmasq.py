"""dnsmasq(8) options that take names away: ``address=/x/``, ``server=/x/``, ``local=/x/`` list x and all below it.

``address`` lists with no address, ``#``, and those that are nobody's or this host's own; with another one it tells
where hosts are, and lists nothing. ``server=/x/#`` ("use the standard servers") makes an exception; a server's
address lists nothing. Several names may stand between slashes. ``.x`` is x; ``*.x`` is what is below x; ``*x``, which
matches parts of labels, cannot be said here and lists nothing. What is said about the nearest zone counts.
Other options list nothing. Comments begin with ``#``.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from tidewaiter.lists.entry import BELOW, ZONE, LineError, NameEntry, Say
from tidewaiter.lists.formats.format import Format
from tidewaiter.lists.names import canonical, excerpt

# Without blanks at their ends, of which a hostile line has many, to be tried each by each.
_NAMES = re.compile(r"(?:address|server|local)=/(?P<names>.*)/(?P<value>[^/]*)", re.ASCII)
_OPTION = re.compile(r"(?P<key>[a-z][a-z0-9-]*)\s*(?:=.*)?", re.ASCII)
_COMMENT = re.compile(r"(?:^|\s)#.*")


def _said(key: str, value: str) -> Say | None:
    """What an option says about its names, by what stands behind the last slash."""
    if not value:
        return Say.LISTED
    if value == "#":
        return Say.LISTED if key == "address" else Say.EXEMPT
    try:
        address = ip_address(value)
    except ValueError:
        return None
    silent = key == "address" and (address.is_unspecified or address.is_loopback)
    return Say.LISTED if silent else None


def parse(line: str) -> list[NameEntry]:
    """What a line lists. Raises LineError."""
    whole = _COMMENT.sub("", line)
    line = whole.strip()
    indent = len(whole) - len(whole.lstrip())
    option = _OPTION.fullmatch(line)
    if option is None:
        raise LineError(indent + 1, f"{excerpt(line)} is no option of dnsmasq")
    found = _NAMES.fullmatch(line)
    said = _said(option["key"], found["value"]) if found else None
    if found is None or said is None:
        return []
    entries, column = [], indent + found.start("names") + 1
    for word in found["names"].split("/"):
        scope = BELOW if word.startswith("*.") else ZONE
        name = word.removeprefix("*.") if scope == BELOW else word.removeprefix(".")
        if name == "#":
            raise LineError(column, "'#' is every name")
        if name and not name.startswith("*"):
            try:
                entries.append(NameEntry(canonical(name), said * scope))
            except ValueError as error:
                raise LineError(column, str(error)) from None
        column += len(word) + 1
    return entries


DNSMASQ = Format(
    "dnsmasq",
    lambda: parse,
    "#",
    "",
    (
        (b"address=/", b"/", Say.LISTED * ZONE, True),
        (b"address=/", b"/0.0.0.0", Say.LISTED * ZONE, True),
        (b"address=/", b"/#", Say.LISTED * ZONE, True),
        (b"server=/", b"/", Say.LISTED * ZONE, True),
        (b"local=/", b"/", Say.LISTED * ZONE, True),
        (b"server=/", b"/#", Say.EXEMPT * ZONE, True),
    ),
    nearest=True,
)
