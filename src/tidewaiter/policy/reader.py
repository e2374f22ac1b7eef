"""Reads one policy file: from TOML text to rules, or to one line that says what is wrong and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tidewaiter.model.key import Direction
from tidewaiter.policy.dimensions import DIMENSIONS, Dimension, Names
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.positions import KeyPath
from tidewaiter.policy.remembered import RULES
from tidewaiter.policy.rule import Answer, Conditions, Rule
from tidewaiter.policy.settings import BUILT_IN, LIST_FORMATS, REFRESH, ListSource, NetworkProfile
from tidewaiter.policy.source import Source
from tidewaiter.policy.words import (
    listed,
    parse_network,
    parse_period,
    parse_rate,
    parse_until,
    parse_url,
    quoted,
    word,
)

VERSION = 1
"""The version of the format that is read."""

ACTION_KEYS = ("verdict", "group", "enabled", "log", "until", "limit")
RULE_KEYS = ("name", *DIMENSIONS, "not", "also", *ACTION_KEYS)
TOP_KEYS = ("version", "include", "default", "group", "list", "network", "geography", "rule")
MAX_ALSO = 16
"""How many tables a rule may have under ``also``."""

_DIRECTIONS = {direction.word: direction for direction in Direction}
ANSWERS = {answer.value: answer for answer in Answer if answer is not Answer.PYTHON}
DEFAULTS = {answer.value: answer for answer in (Answer.ACCEPT, Answer.BLOCK, Answer.DROP, Answer.ASK)}
_PYTHON = re.compile(r"python: *([A-Za-z_][\w]*(?:\.[A-Za-z_][\w]*)+)")
_FIELDS = {
    "program": "programs",
    "user": "users",
    "direction": "directions",
    "remote": "remote",
    "local": "local",
    "port": "ports",
}
_FORMATS = {name: name for name in LIST_FORMATS}
_OF_THIS_HOST = frozenset(("user", "user_group", "list", "network"))
"""The dimensions whose names mean what this host, or another part of the policy, says."""


@dataclass(slots=True)
class Settings:
    """What the files of a policy say besides rules, gathered file by file."""

    groups: dict[str, bool] = field(default_factory=dict)
    lists: dict[str, ListSource] = field(default_factory=dict)
    networks: dict[str, NetworkProfile] = field(default_factory=dict)
    geography: dict[str, str] = field(default_factory=dict)

    def find_list(self, name: str) -> str:
        """The name itself. Raises KeyError for a list that is nowhere."""
        if name not in self.lists and name not in BUILT_IN:
            raise KeyError(name)
        return name

    def find_network(self, name: str) -> str:
        """The name itself, or ``elsewhere``. Raises KeyError."""
        if name not in self.networks and name != "elsewhere":
            raise KeyError(name)
        return name


class Reader(Source):
    """Reads one text. What is wrong is raised as `PolicyError` at its place.

    ``main``: it is not included by another, so it may have defaults and may include others.
    """

    def __init__(self, text: str, where: str, *, main: bool = True) -> None:
        super().__init__(text, where, main=main)
        self._fixed = True  # a rule depends on nothing but its text
        self._parsed: dict[tuple[str, type, Any], tuple[Any, ...]] = {}
        self._document = self._toml()
        self._version()
        self._known_keys(self._document, (), TOP_KEYS, "a policy")

    def _version(self) -> None:
        if "version" not in self._document:
            remedy = f"begin it with version = {VERSION}"
            raise PolicyError(self.where, 1, 1, "the policy does not say its version", remedy)
        version = self._document["version"]
        if type(version) is not int or version != VERSION:
            problem = f"the policy's version is {quoted(version)}"
            raise self._error(("version",), problem, f"write version = {VERSION}, the only one there is")

    def includes(self) -> Iterator[tuple[str, Callable[[str, str], PolicyError]]]:
        """The patterns of the files to include, each with what makes an error at its place."""

        def error(path: KeyPath, pattern: str, problem: str, remedy: str) -> PolicyError:
            return self._error(path, f"{quoted(pattern)} {problem}", remedy)

        for pattern, path in self._texts(self._document.get("include", []), ("include",)):
            yield pattern, partial(error, path, pattern)

    def defaults(self) -> dict[Direction, Answer]:
        """The answer for each direction."""
        table = self._document.get("default", {})
        if not isinstance(table, dict):
            remedy = 'write [default] and below it lines like out = "accept"'
            raise self._error(("default",), "default is not a table", remedy)
        self._known_keys(table, ("default",), tuple(_DIRECTIONS), "[default]")
        return {
            _DIRECTIONS[key]: self._at(("default", key), partial(word, "verdict", value, DEFAULTS))
            for key, value in table.items()
        }

    def settings(self, into: Settings) -> None:
        """Gathers what is said besides rules."""
        if not self._main:
            for key in ("default", "include"):
                if key in self._document:
                    raise self._error(
                        (key,), f"an included file has no {key}", "write it into the main file", key=True
                    )
        for name, table, path in self._tables("group", ("enabled",)):
            into.groups[name] = self._flag(table, "enabled", path)
        for name, table, path in self._tables("list", ("path", "url", "format", "refresh")):
            into.lists[name] = self._list(name, table, path)
        for name, table, path in self._tables("network", ("interface", "gateway", "wifi")):
            interfaces, wifi = (
                tuple(text for text, _ in self._texts(table.get(key, []), (*path, key)))
                for key in ("interface", "wifi")
            )
            gateways = tuple(
                self._at(place, partial(parse_network, text))
                for text, place in self._texts(table.get("gateway", []), (*path, "gateway"))
            )
            if not table or name == "elsewhere":
                remedy = "give it another name, and an interface, a gateway or a wifi name"
                raise self._error(path, f"the network {quoted(name)} is told by nothing", remedy, key=True)
            into.networks[name] = NetworkProfile(interfaces, gateways, wifi)
        if "geography" in self._document:
            table = self._table(self._document["geography"], ("geography",), ("country", "asn"))
            for key in table:
                if isinstance(table[key], list):
                    raise self._error(("geography", key), f"{key} is a list", "write the path of one file")
                into.geography[key] = next(text for text, _ in self._texts(table[key], ("geography", key)))

    def _list(self, name: str, table: dict[str, Any], path: KeyPath) -> ListSource:
        paths = tuple(text for text, _ in self._texts(table.get("path", []), (*path, "path")))
        urls = tuple(
            self._at(place, partial(parse_url, text))
            for text, place in self._texts(table.get("url", []), (*path, "url"))
        )
        if not paths and not urls:
            raise self._error(
                path, f"the list {quoted(name)} comes from nowhere", "add a path or a url", key=True
            )
        kind, refresh = "", REFRESH
        if "format" in table:
            kind = self._at((*path, "format"), partial(word, "format", table["format"], _FORMATS))
        if "refresh" in table:
            place = (*path, "refresh")
            if not urls:
                remedy = "remove it: files are read when they change"
                raise self._error(place, "refresh is for a list with a url", remedy, key=True)
            refresh = self._at(place, partial(parse_period, str(table["refresh"])))
        return ListSource(paths, urls, kind, refresh)

    def rules(self, names: Names, seen: dict[str, Rule]) -> Iterator[Rule]:
        """The rules in their order; ``seen`` are those of the files before by their names."""
        tables = self._document.get("rule", [])
        if not isinstance(tables, list):
            raise self._error(("rule",), "rule is not a list of tables", "write [[rule]] in double brackets")
        lines = self._lines()
        for index, table in enumerate(tables):
            path: KeyPath = ("rule", index)
            rule = table if type(table) is Rule else self._read_rule(table, path, names, lines)
            if rule.name in seen:
                other = seen[rule.name]
                where = (
                    f"of line {other.line}" if other.file == self.where else f"in {other.file}:{other.line}"
                )
                problem = f"the rule {where} has the name {quoted(rule.name)} too"
                raise self._error((*path, "name"), problem, "give each rule its own name")
            seen[rule.name] = rule
            yield rule

    def _lines(self) -> Callable[[KeyPath], int]:
        """The line that each rule begins in."""
        if self._pieces:
            return lambda path: self._pieces[int(path[1])].line
        self._scan()
        return lambda path: self._positions.line_and_column(self._positions.of(path, key=True))[0]

    def _read_rule(self, table: object, path: KeyPath, names: Names, lines: Callable[[KeyPath], int]) -> Rule:
        if not isinstance(table, dict):
            raise self._error(path, "this rule is not a table", "write [[rule]] and its keys below it")
        self._fixed = "name" in table
        rule = self._rule(table, path, names, lines)
        if self._pieces and self._fixed:
            RULES.put(self.where, self._main, self._pieces[int(path[1])].text, rule)
        return rule

    def _rule(
        self, table: dict[str, Any], path: KeyPath, names: Names, lines: Callable[[KeyPath], int]
    ) -> Rule:
        if not table.keys() <= _KNOWN:
            self._known_keys(table, path, RULE_KEYS, "a rule")
        if "verdict" not in table:
            remedy = f'add a line like verdict = "block" ({listed(DEFAULTS, "or")})'
            raise self._error(path, "the rule has no verdict", remedy, key=True)
        fields: dict[str, Any] = {}
        any_of: dict[str, tuple[Any, ...]] = {}
        for key, value in table.items():
            dimension = DIMENSIONS.get(key)
            if dimension is not None:
                values = self._values(dimension, value, path, names)
                if key in _FIELDS:
                    fields[_FIELDS[key]] = frozenset(values) if key == "direction" else values
                else:
                    any_of[key] = values
            elif key in _READERS:
                fields[key] = _READERS[key](self, table, path)
        if "not" in table:
            fields["none_of"] = self._none_of(table["not"], (*path, "not"), names)
        if "also" in table:
            fields["also"] = tuple(self._also(table["also"], (*path, "also"), names))
        answer, function = self._answer(table["verdict"], path)
        if (answer is Answer.LIMIT) != ("limit" in table):
            remedy = 'write verdict = "limit" and limit = "1 MB/s" together'
            raise self._error(path, "a limit needs the verdict limit and a rate", remedy, key=True)
        if any_of:
            fields["any_of"] = any_of
        return Rule(
            name=self._name(table, path),
            answer=answer,
            function=function,
            line=lines(path),
            file=self.where,
            **fields,
        )

    def _values(self, dimension: Dimension, value: object, path: KeyPath, names: Names) -> tuple[Any, ...]:
        """The parsed elements of one dimension, which is a single value or a list of them."""
        if type(value) is str:
            known = self._parsed.get((dimension.name, str, value))
            if known is None or dimension.name in _OF_THIS_HOST:
                known = self._parse(dimension, value, (*path, dimension.name), names)
            return known
        path = (*path, dimension.name)
        if value == []:
            raise self._error(path, f"the list {dimension.name} is empty", "leave the key out to mean any")
        elements = value if isinstance(value, list) else [value]
        found: list[Any] = []
        for index, element in enumerate(elements):
            found += self._parse(
                dimension, element, (*path, index) if isinstance(value, list) else path, names
            )
        return tuple(found)

    def _parse(self, dimension: Dimension, element: object, path: KeyPath, names: Names) -> tuple[Any, ...]:
        kind = type(element)
        if kind not in dimension.types:
            problem = f"{dimension.name} has {quoted(element)} where {dimension.kind} is expected"
            raise self._error(path, problem, f"write {dimension.kind} or a list of them")
        if kind is str and dimension.name in _OF_THIS_HOST:
            self._fixed = False
        known = self._parsed.get((dimension.name, kind, element))
        if known is None:
            if element == "" and dimension.may_be_unknown:
                known = (None,)
            else:
                try:
                    parsed = dimension.parse(element, names)
                except BadValueError as bad:
                    raise self._error(path, bad.problem, bad.remedy) from None
                known = parsed if type(parsed) is tuple else (parsed,)
            self._parsed[dimension.name, kind, element] = known
        return known

    def _conditions(
        self, table: object, path: KeyPath, names: Names, owner: str
    ) -> Mapping[str, tuple[Any, ...]]:
        table = self._table(table, path, (*DIMENSIONS, "not") if owner == "also" else tuple(DIMENSIONS))
        return {
            key: self._values(DIMENSIONS[key], value, path, names)
            for key, value in table.items()
            if key in DIMENSIONS
        }

    def _none_of(self, table: object, path: KeyPath, names: Names) -> Mapping[str, tuple[Any, ...]]:
        return self._conditions(table, path, names, "not")

    def _also(self, value: object, path: KeyPath, names: Names) -> Iterator[Conditions]:
        tables = value if isinstance(value, list) else [value]
        if len(tables) > MAX_ALSO:
            raise self._error(path, f"also has more than {MAX_ALSO} tables", "make several rules of it")
        for index, table in enumerate(tables):
            place = (*path, index) if isinstance(value, list) else path
            any_of = self._conditions(table, place, names, "also")
            assert isinstance(table, dict)
            none_of = self._none_of(table["not"], (*place, "not"), names) if "not" in table else {}
            yield Conditions(any_of=any_of, none_of=none_of)

    def _name(self, table: dict[str, Any], path: KeyPath) -> str:
        name = table.get("name")
        if "name" not in table:
            name = f"rule {int(path[-1]) + 1}"
            name = name if self._main else f"{name} of {self.where.rpartition('/')[2]}"
        if not isinstance(name, str) or not name or not name.isprintable():
            raise self._error(
                (*path, "name"), f"{quoted(name)} is not a name", "write it as text on one line"
            )
        return name

    def _answer(self, value: object, path: KeyPath) -> tuple[Answer, str]:
        if isinstance(value, str) and value in ANSWERS:
            return ANSWERS[value], ""
        path = (*path, "verdict")
        if isinstance(value, str) and value.startswith("python"):
            match = _PYTHON.fullmatch(value)
            if match is None:
                raise self._error(
                    path, f"{quoted(value)} names no function", 'write "python: module.function"'
                )
            return Answer.PYTHON, match[1]
        return self._at(path, partial(word, "verdict", value, ANSWERS)), ""

    def _group(self, table: dict[str, Any], path: KeyPath) -> str:
        name = table["group"]
        if not isinstance(name, str) or not name or not name.isprintable():
            raise self._error(
                (*path, "group"), f"{quoted(name)} is not a name", "write it as text on one line"
            )
        return name

    def _flag(self, table: dict[str, Any], key: str, path: KeyPath) -> bool:
        value = table.get(key, True)
        if not isinstance(value, bool):
            raise self._error((*path, key), f"{key} is {quoted(value)}", "write true or false")
        return value

    def _until(self, table: dict[str, Any], path: KeyPath) -> float | str:
        return self._at((*path, "until"), partial(parse_until, table["until"]))

    def _limit(self, table: dict[str, Any], path: KeyPath) -> tuple[int, int]:
        """Bytes a second to and from the program."""
        value, path = table["limit"], (*path, "limit")
        if isinstance(value, str):
            rate = self._at(path, partial(parse_rate, value))
            return rate, rate
        rates = self._table(value, path, ("down", "up"))
        found = {key: self._at((*path, key), partial(parse_rate, str(rate))) for key, rate in rates.items()}
        return found.get("down", 0), found.get("up", 0)

    def _tables(self, key: str, known: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], KeyPath]]:
        """The tables of one kind by their names: ``[list.NAME]``."""
        tables = self._document.get(key, {})
        if not isinstance(tables, dict):
            raise self._error((key,), f"{key} is not a table", f"write [{key}.NAME] and what it is below it")
        for name, table in tables.items():
            yield name, self._table(table, (key, name), known), (key, name)

    def _table(self, value: object, path: KeyPath, known: tuple[str, ...]) -> dict[str, Any]:
        name = ".".join(part for part in path if isinstance(part, str))
        if not isinstance(value, dict):
            raise self._error(path, f"{name} is not a table", f"write keys below it: {listed(known, 'or')}")
        self._known_keys(value, path, known, name)
        return value

    def _texts(self, value: object, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
        """One text or a list of them, with their places."""
        for index, element in enumerate(value if isinstance(value, list) else [value]):
            place = (*path, index) if isinstance(value, list) else path
            if not isinstance(element, str) or not element or not element.isprintable():
                raise self._error(place, f"{quoted(element)} is not a text", "write a text or a list of them")
            yield element, place


_KNOWN = frozenset(RULE_KEYS)
_READERS: dict[str, Callable[[Reader, dict[str, Any], KeyPath], Any]] = {
    "group": Reader._group,
    "enabled": lambda reader, table, path: reader._flag(table, "enabled", path),
    "log": lambda reader, table, path: reader._flag(table, "log", path),
    "until": Reader._until,
    "limit": Reader._limit,
}
