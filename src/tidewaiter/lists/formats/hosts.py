"""Hosts files (hosts(5)): an address and names, each of which is listed alone, not what is below it.

A list says "there is no such host" by an address that is nobody's or this host's own: 0.0.0.0, 127.0.0.1, ``::``,
``::1``. Lines with other addresses tell where a host really is, and list nothing; nor do names of one part, which
are machines of the own network, and ``localhost.localdomain``. Comments begin with ``#``.
"""

from __future__ import annotations

from ipaddress import ip_address

from tidewaiter.lists.entry import SELF, LineError, NameEntry, Say
from tidewaiter.lists.formats.format import Format, words
from tidewaiter.lists.names import canonical, excerpt


def parse(line: str) -> list[NameEntry]:
    """What a line lists. Raises LineError."""
    found = list(words(line, "#"))
    if not found:
        return []
    (column, word), *names = found
    try:
        address = ip_address(word)
    except ValueError:
        raise LineError(column, f"{excerpt(word)} is no address: a line is an address and names") from None
    if not names:
        raise LineError(column, f"no name follows the address {excerpt(word)}")
    if not (address.is_unspecified or address.is_loopback):
        return []
    entries = []
    for column, word in names:
        if word == "0.0.0.0":  # noqa: S104  # stands in well-known lists
            continue
        try:
            name = canonical(word)
        except ValueError as error:
            raise LineError(column, str(error)) from None
        if "." in name and name != "localhost.localdomain":
            entries.append(NameEntry(name, Say.LISTED * SELF))
    return entries


HOSTS = Format(
    "hosts",
    lambda: parse,
    "#",
    "#",
    tuple(
        (address + b" ", b"", Say.LISTED * SELF, False)
        for address in (b"0.0.0.0", b"127.0.0.1", b"::", b"::1")
    ),
)
