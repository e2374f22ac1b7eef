"""Response policy zones (draft-vixie-dnsop-dns-rpz): ``x CNAME .`` lists x alone, ``*.x`` what is below it.

Whatever the records of a name are, it is listed, but ``rpz-passthru.`` and a CNAME to the name itself make it
exempt, and ``rpz-tcp-only.`` says nothing. ``24.0.2.0.192.rpz-ip`` is a network; triggers by client and by name
server list nothing. Where a name has several, the nearest counts: itself, then the longest wildcard. The zone's own
name comes from ``$ORIGIN`` or the SOA record; names behind it with a dot at the end must be in it. Each record
names its owner, in one line. Comments begin with ``;``.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from tidewaiter.lists.entry import BELOW, SELF, Entry, LineError, ListError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats.format import Format, words
from tidewaiter.lists.formats.networks import network
from tidewaiter.lists.names import canonical, excerpt

_TTL = re.compile(r"\d[\dsmhdw]*", re.ASCII | re.IGNORECASE)
_DATA = {"A", "AAAA", "CNAME", "TXT", "MX", "SRV", "PTR", "HTTPS", "SVCB", "CAA", "NAPTR"}
_ZONE = {"SOA", "NS", "DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNAME", "DS", "ZONEMD"}
_ELSEWHERE = (".rpz-client-ip", ".rpz-nsip", ".rpz-nsdname")


def _network(text: str) -> str:
    """What the owner of an address trigger says: ``24.0.2.0.192`` is 192.0.2.0/24. Raises ValueError."""
    length, *parts = text[:64].split(".")  # the longest has 43 characters
    parts.reverse()
    if "zz" in parts or len(parts) == 8:
        address = ":".join("" if part == "zz" else part for part in parts)
        address = (":" if parts[0] == "zz" else "") + address + (":" if parts[-1] == "zz" else "")
        return f"{IPv6Address(address)}/{length}"
    return f"{IPv4Address('.'.join(parts))}/{length}"


class _Zone:
    """Reads the lines of one zone file."""

    def __init__(self) -> None:
        self._origin: str | None = None
        self._open = False  # a record goes on over several lines

    def __call__(self, line: str) -> list[Entry]:
        found = list(words(line, ";"))
        if self._open or not found:
            self._open = self._open and not any(")" in word for _, word in found)
            return []
        column, first = found[0]
        if first.startswith("$"):
            return self._directive(column, [word for _, word in found])
        owner = None if line[0] in " \t" else first
        rest = found[owner is not None :]
        while rest and (_TTL.fullmatch(rest[0][1]) or rest[0][1].upper() == "IN"):
            rest = rest[1:]
        if not rest:
            raise LineError(column, f"{excerpt(line)} is no record: its type is missing")
        (column, kind), *data = rest
        kind = kind.upper()
        if kind in _ZONE:
            self._apex(kind, owner, [word for _, word in data])
            return []
        if kind not in _DATA:
            raise LineError(column, f"{excerpt(kind)} is no type of record that a policy zone has")
        if owner is None:
            raise LineError(column, "the record does not name its owner: write the name in each line")
        if not data:
            raise LineError(column, f"nothing follows {kind}")
        try:
            return self._record(owner, kind, data[0][1])
        except ValueError as error:
            raise LineError(1, str(error)) from None

    def _directive(self, column: int, parts: list[str]) -> list[Entry]:
        kind = parts[0].upper()
        if kind == "$ORIGIN" and len(parts) == 2:
            self._begin(parts[1])
        elif kind != "$TTL":
            raise LineError(
                column, f"{excerpt(' '.join(parts))} is not understood: only $TTL and $ORIGIN NAME are"
            )
        return []

    def _apex(self, kind: str, owner: str | None, data: list[str]) -> None:
        if kind == "SOA" and owner not in {None, "@"} and owner.endswith("."):
            self._begin(owner)
        self._open = any("(" in word for word in data) and not any(")" in word for word in data)

    def _begin(self, origin: str) -> None:
        origin = f".{origin.lower().strip('.')}"
        if self._origin not in {None, origin}:
            raise ListError("the file has more than one zone: write one zone a file")
        self._origin = origin

    def _record(self, owner: str, kind: str, data: str) -> list[Entry]:
        """What a record lists. Raises ValueError."""
        if owner == "@":
            return []
        name = owner.lower()
        if name.endswith("."):
            name = name.removesuffix(".")
            if self._origin is None or not f".{name}".endswith(self._origin):
                raise ValueError(f"{excerpt(owner)} is outside of the zone")
            name = f".{name}".removesuffix(self._origin).removeprefix(".")
        target = data.lower()
        if not name or name.endswith(_ELSEWHERE) or (kind == "CNAME" and target == "rpz-tcp-only."):
            return []
        passes = kind == "CNAME" and target in {"rpz-passthru.", f"{name.removeprefix('*.')}."}
        said = Say.EXEMPT if passes else Say.LISTED
        if name.endswith(".rpz-ip"):
            try:
                return [NetworkEntry(network(_network(name.removesuffix(".rpz-ip"))), said)]
            except ValueError as error:
                raise ValueError(f"{excerpt(owner)} is no network: {error}") from None
        below = name.startswith("*.")
        return [NameEntry(canonical(name.removeprefix("*.")), said * (BELOW if below else SELF))]


RPZ = Format(
    "rpz",
    _Zone,
    ";",
    ";",
    (
        (b"", b" CNAME .", Say.LISTED * SELF, True),
        (b"*.", b" CNAME .", Say.LISTED * BELOW, True),
        (b"", b" IN CNAME .", Say.LISTED * SELF, True),
        (b"*.", b" IN CNAME .", Say.LISTED * BELOW, True),
        (b"", b" CNAME rpz-passthru.", Say.EXEMPT * SELF, True),
        (b"*.", b" CNAME rpz-passthru.", Say.EXEMPT * BELOW, True),
    ),
    nearest=True,
)
