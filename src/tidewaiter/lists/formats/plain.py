"""Plain names, one a line, in two readings.

In ``domains`` a name is that name alone: such lists name what was seen, like the hosts files most are made of,
and a line ``github.io`` must not block a million sites. ``.x`` is x and all below it, as in the policy file;
``*.x`` is what is below x, as in the DNS (RFC 4592). In ``zones`` each line is x and all below it, however it
is written: the reading for "wildcard" lists. Both may have addresses and networks among the names. Comments
begin with ``#``.
"""

from __future__ import annotations

from tidewaiter.lists.entry import BELOW, SELF, ZONE, Entry, LineError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.format import Format, words
from tidewaiter.lists.formats.networks import network
from tidewaiter.lists.names import canonical, excerpt


def _parse(line: str, scopes: dict[str, int]) -> list[Entry]:
    found = list(words(line, "#"))
    if not found:
        return []
    if len(found) > 1:
        raise LineError(found[1][0], f"{excerpt(found[1][1])} is too much: write one name a line")
    column, word = found[0]
    try:
        if ":" in word or "/" in word or word.rpartition(".")[2].isdigit():
            return [NetworkEntry(network(word), Say.LISTED)]
        prefix = next(prefix for prefix in scopes if word.startswith(prefix))
        return [NameEntry(canonical(word[len(prefix) :], single=bool(prefix)), scopes[prefix])]
    except ValueError as error:
        raise LineError(column, str(error)) from None


_EXACT = {"*.": Say.LISTED * BELOW, ".": Say.LISTED * ZONE, "": Say.LISTED * SELF}
_WIDE = dict.fromkeys(_EXACT, Say.LISTED * ZONE)


def parse_domains(line: str) -> list[Entry]:
    """What a line of ``domains`` lists. Raises LineError."""
    return _parse(line, _EXACT)


def parse_zones(line: str) -> list[Entry]:
    """What a line of ``zones`` lists. Raises LineError."""
    return _parse(line, _WIDE)


def _shapes(scopes: dict[str, int]) -> tuple[tuple[bytes, bytes, int, bool], ...]:
    return tuple((prefix.encode(), b"", flags, bool(prefix)) for prefix, flags in scopes.items())


DOMAINS = Format("domains", lambda: parse_domains, "#", "#", _shapes(_EXACT))
ZONES = Format("zones", lambda: parse_zones, "#", "#", _shapes(_WIDE))
