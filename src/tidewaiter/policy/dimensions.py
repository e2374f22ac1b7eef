"""The dimensions: what a rule can name, how its words are read, and what of a connection they are held against.

This table is what everything else goes by: the reader of policy files, the classifier, ``explain``, the schema for
editors and the reference. A value of a rule is one of these: something that the fact has to be equal to; None, for a
fact that is not known; an `Under` or a `Pattern` for texts; or, in a dimension of numbers, what ``spans`` turns into
numbers from one to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address
from operator import attrgetter
from typing import Any

from tidewaiter.model.key import Address, Direction, protocol_name
from tidewaiter.policy import hosts, words
from tidewaiter.policy.patterns import BadValueError, Pattern, Under, directories, zones
from tidewaiter.policy.rule import Facts, PortSpan, Value, World
from tidewaiter.policy.scopes import Network

Span = tuple[int, int]
"""The numbers from the first to the second, both included."""

_V6 = 1 << 128
"""What is added to the number of an IPv6 address, so that both versions are on one line."""


@dataclass(frozen=True, slots=True)
class Names:
    """How the names of users, groups, lists and network profiles become values. Each raises KeyError."""

    user: Callable[[str], int] = words.user_id
    group: Callable[[str], int] = words.group_id
    list: Callable[[str], str] = str
    network: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that rules can name.

    ``kind`` says what is expected there, ``types`` what TOML may hold. ``parse`` makes a value of it, or a tuple of
    several, and raises `BadValueError`. ``value`` is the fact of some `Facts` (with ``looks_out`` of a `World` too):
    with ``many`` a tuple of facts, otherwise one, ``unknown`` when not known. ``spans`` makes numbers of a value; the
    fact is a number then. ``above`` are the `Under` that a text is in. ``text`` is what patterns are held against.
    ``may_be_unknown``: ``""`` is a value, for what is not known. ``of`` are the attributes of `Facts` that the value is
    made of, none where it is made of the time.
    """

    name: str
    kind: str
    says: str
    parse: Callable[[Any, Names], Any]
    value: Callable[..., Any]
    types: tuple[type, ...] = (str,)
    many: bool = False
    spans: Callable[[Any], Iterable[Span]] | None = None
    above: Callable[[str], list[Under]] | None = None
    text: Callable[[Any], str] = str
    may_be_unknown: bool = True
    unknown: Any = None
    looks_out: bool = False
    of: tuple[str, ...] = ()
    examples: tuple[str | int, ...] = field(default=(), compare=False)

    def getter(self, world: World) -> Callable[[Facts], Any]:
        """What finds the fact."""
        return partial(self.value, world=world) if self.looks_out else self.value

    def holds(self, values: Collection[Value], fact: Any) -> bool:  # noqa: ANN401 # a fact of this dimension
        """Whether a fact is one of the values of a rule; with ``many``, whether any of the facts is."""
        facts = (fact or (self.unknown,)) if self.many else (fact,)
        return any(self._is(wanted, one) for wanted in values for one in facts)

    def _is(self, wanted: Value, fact: Any) -> bool:  # noqa: ANN401
        if wanted is None or fact == self.unknown:
            return wanted is None and fact == self.unknown
        if isinstance(wanted, Pattern):
            return wanted.matches(self.text(fact))
        if isinstance(wanted, Under):
            return wanted.matches(fact)
        if self.spans is not None:
            return any(low <= fact <= high for low, high in self.spans(wanted))
        return bool(wanted == fact)

    def key(self, value: Value) -> Value:
        """What a value of a rule is compared with: None stands for what is not known."""
        return self.unknown if value is None else value


def _plain(parse: Callable[[Any], Any]) -> Callable[[Any, Names], Any]:
    return lambda value, _names: parse(value)


def _network_spans(network: Network) -> Iterable[Span]:
    low = _number(network.network_address)
    yield low, low + (1 << network.max_prefixlen - network.prefixlen) - 1


def _number(address: Address) -> int:
    return int(address) if type(address) is IPv4Address else int(address) + _V6


def _address_text(number: int) -> str:
    return str(IPv4Address(number) if number < _V6 else IPv6Address(number - _V6))


def _port_spans(span: PortSpan) -> Iterable[Span]:
    for protocol in span.protocols:
        yield protocol << 16 | span.low, protocol << 16 | span.high


def _port(facts: Facts) -> int:
    port = facts.local_port if facts.direction is Direction.IN else facts.remote_port
    return facts.protocol << 16 | port


def _port_text(number: int) -> str:
    return f"{number & 0xFFFF}/{protocol_name(number >> 16)}"


def _until_spans(end: float) -> Iterable[Span]:
    yield 0, max(0, int(end) - 1)


@lru_cache(maxsize=64)
def _local_time(minute: int) -> time.struct_time:
    return time.localtime(minute * 60)


def _minute_of_day(facts: Facts) -> int | None:
    if not facts.time:
        return None
    local = _local_time(int(facts.time) // 60)
    return local.tm_hour * 60 + local.tm_min


def _weekday(facts: Facts) -> int | None:
    return _local_time(int(facts.time) // 60).tm_wday if facts.time else None


def _lists(facts: Facts, world: World) -> tuple[str, ...]:
    packed, names = facts.remote.packed, facts.names
    return tuple([name for name, members in world.lists.items() if members.has(packed, names)])


def _country(facts: Facts, world: World) -> str | None:
    return facts.country or (world.geography.country(facts.remote) if world.geography else "") or None


def _continent(facts: Facts, world: World) -> str | None:
    return facts.continent or (world.geography.continent(facts.remote) if world.geography else "") or None


def _asn(facts: Facts, world: World) -> int | None:
    return facts.asn or (world.geography.asn(facts.remote) if world.geography else 0) or None


def _digest(digits: int) -> Callable[[Any, Names], Any]:
    return lambda value, _names: words.parse_digest(value, digits)


def _listed(kind: str, find: Callable[[Names], Callable[[str], str]]) -> Callable[[Any, Names], Any]:
    def parse(value: str, names: Names) -> str:
        try:
            return find(names)(value)
        except KeyError:
            raise BadValueError(
                f"there is no {kind} {words.quoted(value)}", f"write [{kind}.{value}] and what it is below it"
            ) from None

    return parse


_DIRECTIONS = {direction.word: direction for direction in Direction}

_TABLE = (
    Dimension(
        "program", "a path", "the executable: a path, a directory that ends with `/`, a pattern",
        _plain(words.parse_path), attrgetter("program"), above=directories, unknown="",
        examples=("/usr/bin/curl", "/opt/vendor/", "/usr/bin/python3.*"), of=("program",),
    ),
    Dimension(
        "arguments", "a text", "the command line, joined by blanks: a text, a pattern",
        _plain(words.parse_text), lambda f: " ".join(f.details.arguments) or None, examples=("*--insecure*",),
        of=("details.arguments",),
    ),
    Dimension(
        "ancestors", "a path", "the executable of any ancestor, written like `program`",
        lambda value, _: words.parse_path(value, "ancestor"), lambda f: f.details.ancestors,
        many=True, above=directories, examples=("/usr/sbin/cron",), of=("details.ancestors",),
    ),
    Dimension(
        "environment", "a text", "a variable of its environment: `NAME=value`, a pattern",
        _plain(words.parse_text), lambda f: f.details.environment, many=True, examples=("VPN=yes",),
        of=("details.environment",),
    ),
    Dimension(
        "sha256", "a checksum", "the SHA-256 of the executable", _digest(64), lambda f: f.details.sha256 or None,
        of=("details.sha256",),
    ),
    Dimension("sha1", "a checksum", "its SHA-1", _digest(40), lambda f: f.details.sha1 or None, of=("details.sha1",)),
    Dimension("md5", "a checksum", "its MD5", _digest(32), lambda f: f.details.md5 or None, of=("details.md5",)),
    Dimension(
        "package", "a text", "the package that owns the executable (dpkg, rpm): a name, a pattern",
        _plain(words.parse_text), lambda f: f.details.package or None, examples=("firefox-esr",),
        of=("details.package",),
    ),
    Dimension(
        "script", "a text", "what an interpreter runs: a path written like `program`, or as typed; `-m MODULE`",
        _plain(words.parse_script), lambda f: f.details.script or None, above=directories,
        examples=("/usr/bin/yt-dlp",), of=("details.script",),
    ),
    Dimension(
        "app", "a text", "a packaged application: `snap:NAME`, `flatpak:ID`, `appimage:NAME`, a pattern",
        _plain(words.parse_text), lambda f: f.details.app or None, examples=("flatpak:org.mozilla.firefox",),
        of=("details.app",),
    ),
    Dimension(
        "user", "a name or a number", "a user's name or number (uid)",
        lambda value, names: words.parse_user(value, names.user), attrgetter("uid"),
        unknown=-1, types=(str, int), examples=("anna", 1000), of=("uid",),
    ),
    Dimension(
        "user_group", "a name or a number", "the name or number (gid) of the process's group",
        lambda value, names: words.parse_user(value, names.group, "group"),
        lambda f: f.details.gid, unknown=-1, types=(str, int), examples=("developers",), of=("details.gid",),
    ),
    Dimension(
        "pid", "a number", "one process", _plain(words.parse_pid),
        lambda f: f.details.pid or None, types=(str, int), examples=(4711,), of=("details.pid",),
    ),
    Dimension(
        "unit", "a text", "the systemd unit, a pattern", _plain(words.parse_text),
        lambda f: f.details.unit or None, examples=("nginx.service",), of=("details.unit",),
    ),
    Dimension(
        "cgroup", "a path", "the control group: a path, one with all below it (`/` at its end), a pattern",
        lambda value, _: words.parse_path(value, "control group"), lambda f: f.details.cgroup or None,
        above=directories, examples=("/user.slice/",), of=("details.cgroup",),
    ),
    Dimension(
        "container", "a text", "the container's id, or 12 of its digits or more; a pattern",
        _plain(words.parse_container), lambda f: f.details.container or None, of=("details.container",),
    ),
    Dimension(
        "direction", "a word",
        "`out` (begun on this host), `in` (begun elsewhere), `forward` (passes through this host)",
        _plain(lambda value: words.word("direction", value, _DIRECTIONS)), attrgetter("direction"),
        text=lambda direction: direction.word, may_be_unknown=False, examples=("out", "in", "forward"),
        of=("direction",),
    ),
    Dimension(
        "protocol", "a protocol", "a protocol by name or number; `tcp4`, `udp6` of one IP version only",
        _plain(words.parse_protocol), lambda f: (f.protocol, f.remote.version), types=(str, int),
        text=lambda value: f"{protocol_name(value[0])}{value[1]}", may_be_unknown=False, examples=("tcp", "udp6", 47),
        of=("protocol", "remote"),
    ),
    Dimension(
        "port", "a port", "ports and protocols, see below", _plain(words.parse_port),
        _port, types=(str, int), spans=_port_spans, text=_port_text,
        may_be_unknown=False, examples=("443/tcp", "8000-8100", "https", 53), of=("protocol", "port"),
    ),
    Dimension(
        "remote_port", "a port", "the other end's port, in whatever direction", _plain(words.parse_port),
        lambda f: f.protocol << 16 | f.remote_port, types=(str, int), spans=_port_spans, text=_port_text,
        may_be_unknown=False, examples=("dns",), of=("protocol", "remote_port"),
    ),
    Dimension(
        "local_port", "a port", "this host's port, in whatever direction", _plain(words.parse_port),
        lambda f: f.protocol << 16 | f.local_port, types=(str, int), spans=_port_spans, text=_port_text,
        may_be_unknown=False, examples=("1024-65535/udp",), of=("protocol", "local_port"),
    ),
    Dimension(
        "interface", "a text", "the network interface, a pattern", _plain(words.parse_text),
        attrgetter("interface"), unknown="", examples=("eth0", "wl*"), of=("interface",),
    ),
    Dimension(
        "remote", "an address or a network", "the other end: an address, a network, a scope",
        _plain(words.parse_where), lambda f: _number(f.remote), spans=_network_spans, text=_address_text,
        may_be_unknown=False, examples=("192.0.2.1", "10.0.0.0/8", "fd00::/8", "lan"), of=("remote",),
    ),
    Dimension(
        "local", "an address or a network", "this host's end, written the same way",
        _plain(words.parse_where), lambda f: _number(f.local), spans=_network_spans, text=_address_text,
        may_be_unknown=False, examples=("192.0.2.7",), of=("local",),
    ),
    Dimension(
        "country", "a country", "where the other end is: two letters (ISO 3166-1)",
        _plain(words.parse_country), _country, looks_out=True, examples=("DE",), of=("country", "remote"),
    ),
    Dimension(
        "continent", "a continent", "AF, AN, AS, EU, NA, OC or SA",
        _plain(words.parse_continent), _continent, looks_out=True, examples=("EU",), of=("continent", "remote"),
    ),
    Dimension(
        "asn", "a number", "the autonomous system of the other end",
        _plain(words.parse_asn), _asn, looks_out=True, types=(str, int), examples=("AS13335", 13335),
        of=("asn", "remote"),
    ),
    Dimension(
        "host", "a name", "what the other end is called: a name, a zone with its top (`.example.com`), a pattern; "
        "each name that it is an alias of counts too",
        _plain(hosts.parse_name), lambda f: f.names, many=True, above=zones,
        examples=("example.com", ".example.com", "ads*.example.*", "re:^ads[0-9]+[.]"), of=("names",),
    ),
    Dimension(
        "asked_host", "a name", "the same, but only the name that the program asked for",
        _plain(hosts.parse_name), lambda f: f.names[0] if f.names else None, above=zones, of=("names",),
    ),
    Dimension(
        "list", "a list's name", "a list (`[list.NAME]`) that has a name or the address of the other end",
        _listed("list", lambda names: names.list), _lists, looks_out=True, many=True, may_be_unknown=False,
        examples=("ads",), of=("remote", "names"),
    ),
    Dimension(
        "time", "a time of day", "local time of day from, to: `08:00-18:00`; over midnight: `22:00-06:00`",
        _plain(words.parse_time), _minute_of_day, spans=lambda span: (span,), may_be_unknown=False,
        text=lambda minute: f"{minute // 60:02}:{minute % 60:02}", examples=("08:00-18:00",),
    ),
    Dimension(
        "weekday", "a weekday", "local weekdays: `sat`, `mon-fri`",
        _plain(words.parse_weekday), _weekday, may_be_unknown=False,
        text=lambda day: words.WEEKDAYS[day], examples=("mon-fri", "sat"),
    ),
    Dimension(
        "network", "a network's name", "a profile (`[network.NAME]`) of the network that this host is in, `elsewhere`",
        _listed("network", lambda names: names.network), lambda f: f.network or ("elsewhere",), many=True,
        may_be_unknown=False, examples=("home", "elsewhere"), of=("network",),
    ),
)  # fmt: skip

DIMENSIONS = {dimension.name: dimension for dimension in _TABLE}
"""Every dimension by its name, which is its key in the policy file."""

UNTIL = Dimension(
    "until", "a time", "", lambda value, _names: value, lambda f: int(f.time), spans=_until_spans
)
"""The end of a rule's life, which is a dimension like others once it is a time."""

ALL = DIMENSIONS | {"until": UNTIL}
"""All that a `Rule.conditions` can name."""

OF_NAMES = frozenset(("host", "asked_host", "list"))
"""The dimensions that are not known while ``host`` is not."""


def is_pending(dimension: str, pending: frozenset[str]) -> bool:
    """Whether more may be known of a dimension later."""
    return dimension in pending or (dimension in OF_NAMES and "host" in pending)


def may_be(dimension: Dimension, facts: Facts, world: World) -> tuple[Any, ...]:
    """The least and the most that a fact may turn out to be, once if it is known; () where it may be anything.

    Where only the name is missing, what has the address is in a list for certain, and only lists of names may follow.
    """
    if not is_pending(dimension.name, facts.pending):
        return (dimension.getter(world)(facts),)
    if dimension.name != "list" or "list" in facts.pending:
        return ()
    least = _lists(facts._replace(names=()), world)
    most = tuple(name for name, members in world.lists.items() if members.by_name or name in least)
    return (least, most) if least != most else (least,)
