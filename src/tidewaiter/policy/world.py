"""What the rules of a policy look things up in, read from the files that it names: lists, and where addresses are.

Lists here are read in their plain forms, line by line into sets. What reads a million names, all formats and URLs has
to answer the same two questions (`MemberList`), and can stand in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from glob import glob
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import maxminddb

from tidewaiter.model.key import Address
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import MemberList, World
from tidewaiter.policy.settings import ListSource

FORMATS = ("", "hosts", "domains", "zones", "networks")
"""What can be read here; "" looks at each line."""

MAX_LIST = 64 * 1024 * 1024
"""Bytes of a file of a list."""

_LOCAL = frozenset(("local", "localhost", "localhost.localdomain", "broadcasthost", "0.0.0.0"))  # noqa: S104
_KEPT = 4096


class PlainList:
    """Names and networks of some lines."""

    def __init__(self, lines: Iterable[str], form: str = "") -> None:
        """``form`` is one of `FORMATS`."""
        self.names: set[str] = set()
        self.zones: set[str] = set()
        self._networks: dict[tuple[int, int], set[int]] = {}
        for line in lines:
            self._take(line.partition("#")[0].split(), form)

    def contains_name(self, name: str) -> bool:
        """Whether a name is in the list, or below a zone of it."""
        if name in self.names:
            return True
        parts = name.split(".") if self.zones else []
        return any(".".join(parts[at:]) in self.zones for at in range(len(parts)))

    def contains_address(self, address: Address) -> bool:
        """Whether an address is in a network of the list."""
        number, width = int(address), address.max_prefixlen
        return any(
            version == address.version and number >> width - length in found
            for (version, length), found in self._networks.items()
        )

    def _take(self, words: list[str], form: str) -> None:
        network = _network(words[0]) if words else None
        if network is not None and len(words) > 1 and form in ("", "hosts"):
            self.names.update(word.lower().rstrip(".") for word in words[1:] if word not in _LOCAL)
        elif network is not None and form in ("", "networks"):
            key = network.version, network.prefixlen
            shift = network.max_prefixlen - network.prefixlen
            self._networks.setdefault(key, set()).add(int(network.network_address) >> shift)
        elif network is None and len(words) == 1 and form in ("", "domains", "zones"):
            name = words[0].lower().rstrip(".")
            plain = name.removeprefix("*").removeprefix(".")
            (self.zones if form == "zones" or plain != name else self.names).add(plain)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class Places:
    """Countries, continents and systems from files in MaxMind's format; the last answers are remembered."""

    def __init__(self, country: str = "", asn: str = "") -> None:
        """Opens the files that are named. Raises OSError, ValueError and maxminddb.InvalidDatabaseError."""
        self._country, self._asn = (
            maxminddb.open_database(path, maxminddb.MODE_MEMORY) if path else None for path in (country, asn)
        )
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
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: Address) -> tuple[str, str, int]:
        country = continent = ""
        number = 0
        if self._country is not None and isinstance(entry := self._country.get(address), dict):
            country, continent = _code(entry, "country", "iso_code"), _code(entry, "continent", "code")
        if self._asn is not None and isinstance(entry := self._asn.get(address), dict):
            found = entry.get("autonomous_system_number")
            number = found if isinstance(found, int) else 0
        return country, continent, number


def _code(entry: dict[str, object], key: str, inner: str) -> str:
    table = entry.get(key)
    code = table.get(inner) if isinstance(table, dict) else None
    return code if isinstance(code, str) else ""


def world_of(policy: Policy, say: Callable[[str], None]) -> World:
    """The world of a policy. What cannot be read is left empty, and ``say`` is told in one sentence."""
    base = Path(policy.files[0]).parent if policy.files else Path()
    lists: dict[str, MemberList] = {
        name: PlainList(_lines(name, source, base, say), source.format)
        for name, source in policy.lists.items()
    }
    files = {key: str(base / path) for key, path in policy.geography.items()}
    try:
        return World(lists, Places(**files) if files else None)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        say(f"where addresses are is not known: {error}")
        return World(lists)


def _lines(name: str, source: ListSource, base: Path, say: Callable[[str], None]) -> Iterator[str]:
    if source.urls or source.format not in FORMATS:
        say(
            f"the list {name} is only read where a firewall runs (it has a url, or the format {source.format!r})"
        )
    for path in source.paths:
        wanted = str(base / path)
        found = sorted(glob(wanted)) if any(sign in path for sign in "*?[") else [wanted]  # noqa: PTH207
        if not found:
            say(f"the list {name} is empty: there is no file {wanted}")
        for file in found:
            try:
                if Path(file).stat().st_size > MAX_LIST:
                    say(f"the list {name} goes without {file}: it has more than {MAX_LIST} bytes")
                    continue
                yield from Path(file).read_text(errors="replace").splitlines()
            except OSError as error:
                say(f"the list {name} goes without {file}: {error.strerror}")
