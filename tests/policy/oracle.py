"""What a policy decides, found in the plainest way: a loop over its rules, word by word.

Written from docs/reference/policy.md alone. It is given the tables of a policy file and connections as JSON objects,
reads both by itself, and imports nothing of the code that it judges: where the two differ, one of them is not as the
reference says.
"""

from __future__ import annotations

import pwd
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

Words = dict[str, Any]
"""A table of TOML, or an object of JSON."""

Test = Callable[[Any], bool]
"""Whether a fact satisfies a word."""

PATHS = frozenset({"program", "ancestors", "script", "cgroup"})
NAMES = frozenset({"host", "asked_host"})
DIGESTS = frozenset({"sha256", "sha1", "md5"})
USERS = frozenset({"user", "user_group", "pid"})
PORTS = frozenset({"port", "remote_port", "local_port"})
ADDRESSES = frozenset({"remote", "local"})
NO_DIMENSION = frozenset({"name", "verdict", "limit", "group", "enabled", "log", "not", "also"})
"""The keys of a rule that demand nothing of a connection. ``until`` does where it is a time."""

PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "sctp": 132}
WITH_PORTS = {6, 17, 132}
SERVICES = {"ssh": 22, "smtp": 25, "dns": 53, "http": 80, "ntp": 123, "https": 443, "mdns": 5353}
SCOPES = {
    "localhost": ["127.0.0.0/8", "::1", "0.0.0.0", "::"],
    "link": ["169.254.0.0/16", "fe80::/10"],
    "lan": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"],
    "multicast": ["224.0.0.0/4", "255.255.255.255", "ff00::/8"],
}
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Seen:
    """A connection: for each dimension its facts, of which there are none where it is not known."""

    def __init__(self, one: Words, lists: Mapping[str, Sequence[str]]) -> None:
        self.one, self._lists = one, lists
        self.remote, self.remote_port = end(one["remote"])
        self.local, self.local_port = end(one["local"])
        self.direction: str = one.get("direction", "out")
        word: Any = one.get("protocol", "tcp")
        self.protocol: int = PROTOCOLS.get(word, word)
        names = [one.get("name", ""), *one.get("aliases", [])]
        self.names = [name.lower() for name in names if name]
        self.pending = frozenset(one.get("pending", ()))
        self._known: dict[str, tuple[Any, ...]] = {}

    def facts(self, dimension: str) -> tuple[Any, ...]:
        known = self._known.get(dimension)
        if known is None:
            known = self._known[dimension] = tuple(self._facts(dimension))
        return known

    def _facts(self, dimension: str) -> Iterator[Any]:
        one, when = self.one, self.one.get("time")
        match dimension:
            case "arguments":
                yield from [" ".join(one["arguments"])] if one.get("arguments") else []
            case "ancestors":
                yield from one.get("ancestors", [])
            case "environment":
                yield from (f"{name}={text}" for name, text in one.get("environment", {}).items())
            case "user" | "user_group":
                number = one.get(dimension, "")
                yield from [] if isinstance(number, str) else [number]  # a name: of nobody who is here
            case "sha256" | "sha1" | "md5":
                yield from [one[dimension].lower()] if one.get(dimension) else []
            case "direction":
                yield self.direction
            case "protocol":
                yield self.protocol, self.remote.version
            case "port":
                yield self.protocol, self.local_port if self.direction == "in" else self.remote_port
            case "remote_port":
                yield self.protocol, self.remote_port
            case "local_port":
                yield self.protocol, self.local_port
            case "remote":
                yield self.remote
            case "local":
                yield self.local
            case "host":
                yield from self.names
            case "asked_host":
                yield from self.names[:1]
            case "list":
                yield from (name for name in self._lists if self.in_list(name))
            case "time":
                yield from [minute(time.strftime("%H:%M", time.localtime(when)))] if when else []
            case "weekday":
                yield from [time.localtime(when).tm_wday] if when else []
            case "network":
                yield from one.get("network") or ["elsewhere"]
            case "until":
                yield when or 0
            case _:
                yield from [one[dimension]] if one.get(dimension) else []

    def in_list(self, name: str, *, by_name: bool = True) -> bool:
        """Whether a list has the address of the other end, or one of its names."""
        for line in self._lists[name]:
            if line[0].isdigit():
                if within((line,))(self.remote):
                    return True
            elif by_name and any(
                called == line or (line[0] == "*" and (called == line[2:] or called.endswith(line[1:])))
                for called in self.names
            ):
                return True
        return False

    def lists_names(self, name: str) -> bool:
        return not all(line[0].isdigit() for line in self._lists[name])


class Condition(NamedTuple):
    """One thing that a rule demands. Layer 0 is the rule itself, 1 and more the tables under ``also``."""

    dimension: str
    layer: int
    negated: bool
    words: tuple[Any, ...]
    tests: tuple[Test, ...]
    """Those of the words that are not ``""``."""

    def holds(self, seen: Seen) -> bool | None:
        """None: that depends on what is not known yet."""
        pending = seen.pending
        if pending and (
            self.dimension in pending or (self.dimension in {"asked_host", "list"} and "host" in pending)
        ):
            if self.dimension != "list" or "list" in pending:
                return None
            # an address that a list has needs no name, nor does a list that has no names
            if any(seen.in_list(name, by_name=False) for name in self.words):
                return not self.negated
            return None if any(map(seen.lists_names, self.words)) else self.negated
        facts = seen.facts(self.dimension)
        if not facts:
            return ("" in self.words) is not self.negated
        for test in self.tests:
            for fact in facts:
                if test(fact):
                    return not self.negated
        return self.negated


class First(NamedTuple):
    """The first rule that may match: its place, the number of rules for none; and whether it is sure to match."""

    place: int
    sure: bool


class Loop:
    """The rules of a policy, tried one after the other."""

    def __init__(self, rules: Sequence[tuple[bool, Sequence[Condition]]]) -> None:
        """Of each rule whether it is on, and what it demands."""
        self.rules = rules

    @classmethod
    def over(cls, policy: Words) -> Loop:
        """A policy as its file says it."""
        off = {name for name, table in policy.get("group", {}).items() if table.get("enabled") is False}
        return cls(
            [
                (
                    rule.get("enabled", True) and rule.get("group") not in off,
                    tuple(conditions(rule)),
                )
                for rule in policy["rule"]
            ]
        )

    def only(self, wanted: Callable[[int, Condition], bool]) -> Loop:
        """The same rules, of whose conditions some are not looked at: wanted(PLACE, CONDITION) says which are."""
        return Loop(
            [
                (on, tuple(one for one in demands if wanted(place, one)))
                for place, (on, demands) in enumerate(self.rules)
            ]
        )

    def first(self, seen: Seen) -> First:
        for place, (on, demands) in enumerate(self.rules):
            if not on:
                continue
            sure = True
            for condition in demands:
                holds = condition.holds(seen)
                if holds is False:
                    break
                if holds is None:
                    sure = False
            else:
                return First(place, sure)
        return First(len(self.rules), True)


def conditions(rule: Words) -> Iterator[Condition]:
    also = rule.get("also", [])
    for layer, table in enumerate([rule, *(also if isinstance(also, list) else [also])]):
        for dimension, value in table.items():
            if dimension not in NO_DIMENSION and not (dimension == "until" and isinstance(value, str)):
                yield condition(dimension, layer, value, negated=False)
        for dimension, value in table.get("not", {}).items():
            yield condition(dimension, layer, value, negated=True)


def condition(dimension: str, layer: int, value: Any, *, negated: bool) -> Condition:
    words = tuple(value) if isinstance(value, list) else (value,)
    tests = tuple(asks(dimension, word) for word in words if word != "")
    return Condition(dimension, layer, negated, words, tests)


def asks(dimension: str, word: Any) -> Test:
    """What a word asks of a fact."""
    if isinstance(word, str) and word.startswith("re:"):
        search = re.compile(word[3:]).search
        return lambda fact: search(str(fact)) is not None
    if dimension in ADDRESSES:
        return inside(word)
    if dimension in PORTS:
        return to_port(str(word))
    if dimension == "protocol":
        return of_protocol(str(word).lower())
    if dimension in USERS:
        number = int(word) if str(word).isdigit() else pwd.getpwnam(word).pw_uid
        return lambda fact: fact == number
    if dimension == "asn":
        system = int(str(word).removeprefix("AS"))
        return lambda fact: fact == system
    if dimension == "time":
        return at_time(word)
    if dimension == "weekday":
        return on_days(word)
    if dimension == "until":
        assert isinstance(word, datetime)
        end_of_life = word.timestamp()
        return lambda fact: fact < end_of_life
    return like(dimension, word)


def like(dimension: str, word: str) -> Test:
    """Texts: one, all below a directory or zone, a pattern."""
    if dimension in NAMES or dimension in DIGESTS:
        word = word.lower()
    elif dimension in {"country", "continent"}:
        word = word.upper()
    if dimension == "container" and 12 <= len(word) < 64 and set(word) <= set("0123456789abcdef"):
        return lambda fact: fact.startswith(word)
    if "*" in word or "?" in word:
        path = dimension in PATHS and word.startswith(("/", "**"))
        match = re.compile(pattern(word, path=path), re.DOTALL).fullmatch
        return lambda fact: match(fact) is not None
    if dimension in PATHS and word.endswith("/"):
        return lambda fact: fact.startswith(word)
    if dimension in NAMES and word.startswith("."):
        return lambda fact: fact == word[1:] or fact.endswith(word)
    return lambda fact: fact == word


def pattern(word: str, *, path: bool) -> str:
    """The signs of a pattern as an expression."""
    one = "[^/]" if path else "."
    signs = {"**": ".*", "*": f"{one}*" if path else ".*", "?": one}
    return "".join(
        signs[part] if part in signs else part if re.fullmatch(r"\[.+\]", part) else re.escape(part)
        for part in re.split(r"(\*\*|\*|\?|\[.+?\])", word.replace("[!", "[^"))
    )


def to_port(word: str) -> Test:
    if word in PROTOCOLS:
        alone = PROTOCOLS[word]
        return lambda fact: fact[0] == alone
    ports, _, name = word.partition("/")
    low, _, high = str(SERVICES.get(ports, ports)).partition("-")
    first, last = int(low), int(high or low)
    protocols = {PROTOCOLS[name]} if name else WITH_PORTS
    return lambda fact: fact[0] in protocols and first <= fact[1] <= last


def of_protocol(word: str) -> Test:
    if word[-1] in "46" and word[:-1] in PROTOCOLS:
        one = PROTOCOLS[word[:-1]], int(word[-1])
        return lambda fact: fact == one
    number = int(word) if word.isdigit() else PROTOCOLS[word]
    return lambda fact: fact[0] == number


def inside(word: str) -> Test:
    if word == "internet":
        scopes = [inside_scope(name) for name in SCOPES]
        return lambda place: not any(scope(place) for scope in scopes)
    return inside_scope(word) if word in SCOPES else within((word,))


@cache
def inside_scope(word: str) -> Test:
    return within(tuple(SCOPES[word]))


@cache
def within(words: tuple[str, ...]) -> Test:
    spans = [
        (net.version, int(net.network_address), int(net.broadcast_address)) for net in map(ip_network, words)
    ]
    return lambda place: any(place[0] == version and low <= place[1] <= high for version, low, high in spans)


def minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def at_time(word: str) -> Test:
    start, stop = map(minute, word.split("-"))
    if start < stop:
        return lambda now: start <= now < stop
    return lambda now: now >= start or now < stop  # over midnight


def on_days(word: str) -> Test:
    first, _, last = word.partition("-")
    day, days = DAYS.index(first), {DAYS.index(first)}
    while DAYS[day] != (last or first):
        day = (day + 1) % 7
        days.add(day)
    return lambda today: today in days


class Place(NamedTuple):
    """An address: its IP version and its number."""

    version: int
    number: int
    text: str

    def __str__(self) -> str:
        return self.text


def end(text: str) -> tuple[Place, int]:
    address, _, port = text.rpartition(":")
    found = ip_address(address.strip("[]"))
    return Place(found.version, int(found), str(found)), int(port)
