"""AdBlock filters, of which those that are about a whole domain count: ``||x^`` lists x and all below it.

``||*.x^`` lists what is below x. ``@@`` in front makes an exception, which wins over what is listed; with
``$important`` a filter wins over exceptions, and an exception over everything. An address in place of the name
is an address. Filters with other options are about some kinds of requests only, those with paths or selectors
about parts of pages: a firewall sees neither, so they list nothing. Comments begin with ``!``, ``#`` or ``[``.
"""

from __future__ import annotations

import re

from tidewaiter.lists.entry import BELOW, ZONE, Entry, LineError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.format import Format
from tidewaiter.lists.formats.networks import network
from tidewaiter.lists.names import canonical

_FILTER = re.compile(
    r"(?P<exempt>@@)?\|\|(?P<below>\*\.)?(?P<host>[^/^$|?=*]+)\^\|?(?:\$(?P<options>.*))?\s*"
)
_ANYTHING = {"all", "important"}


def parse(line: str) -> list[Entry]:
    """What a line lists. Raises LineError."""
    found = _FILTER.fullmatch(line)
    if found is None:
        return []
    options = set((found["options"] or "all").strip().split(","))
    if not options <= _ANYTHING:
        return []
    if "important" in options:
        said = Say.EXEMPT_FIRMLY if found["exempt"] else Say.LISTED_FIRMLY
    else:
        said = Say.EXEMPT if found["exempt"] else Say.LISTED
    host = found["host"]
    try:
        if host.rpartition(".")[2].isdigit() or host.startswith("["):
            return [NetworkEntry(network(host.strip("[]")), said)]
        return [NameEntry(canonical(host), said * (BELOW if found["below"] else ZONE))]
    except ValueError as error:
        raise LineError(found.start("host") + 1, str(error)) from None


ADBLOCK = Format(
    "adblock",
    lambda: parse,
    "!#[",
    "",
    (
        (b"||", b"^", Say.LISTED * ZONE, True),
        (b"@@||", b"^", Say.EXEMPT * ZONE, True),
        (b"||", b"^$important", Say.LISTED_FIRMLY * ZONE, True),
    ),
)
