"""Where addresses are, from files in MaxMind's format that the user brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.model.key import Address

if TYPE_CHECKING:
    import maxminddb

KEPT = 4096
"""Addresses whose places are remembered."""


class Places:
    """Countries, continents and systems; the last answers are remembered."""

    def __init__(self, country: str = "", asn: str = "") -> None:
        """Opens the files that are named. Raises OSError and ValueError. The library takes 7 MB."""
        self._country, self._asn = (_open(path) if path else None for path in (country, asn))
        self._known: dict[Address, tuple[str, str, int]] = {}

    def country(self, address: Address) -> str:
        """Two capitals, or ""."""
        return self._of(address)[0]

    def continent(self, address: Address) -> str:
        """Two capitals, or ""."""
        return self._of(address)[1]

    def asn(self, address: Address) -> int:
        """A number, or 0."""
        return self._of(address)[2]

    def _of(self, address: Address) -> tuple[str, str, int]:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: Address) -> tuple[str, str, int]:
        country = continent = ""
        number = 0
        if entry := _entry(self._country, address):
            country, continent = _code(entry, "country", "iso_code"), _code(entry, "continent", "code")
        if entry := _entry(self._asn, address):
            found = entry.get("autonomous_system_number")
            number = found if isinstance(found, int) else 0
        return country, continent, number


def _open(path: str) -> maxminddb.Reader:
    import maxminddb  # noqa: PLC0415 - most firewalls have no such files

    try:
        return maxminddb.open_database(path, maxminddb.MODE_MEMORY)
    except maxminddb.InvalidDatabaseError as error:
        raise ValueError(str(error)) from error


def _entry(reader: maxminddb.Reader | None, address: Address) -> dict[str, object]:
    """What a file says of an address: nothing where it is damaged, or knows no IPv6."""
    try:
        entry = reader.get(address) if reader is not None else None
    except (ValueError, RuntimeError):  # the library's own error is one
        return {}
    return dict(entry) if isinstance(entry, dict) else {}


def _code(entry: dict[str, object], key: str, inner: str) -> str:
    table = entry.get(key)
    code = table.get(inner) if isinstance(table, dict) else None
    return code if isinstance(code, str) else ""
