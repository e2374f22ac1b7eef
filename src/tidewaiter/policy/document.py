"""The policy file: from TOML text to a `Policy`, or to one line that says what is wrong and where."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from tidewaiter.model.key import Direction
from tidewaiter.policy.positions import KeyPath, Positions
from tidewaiter.policy.rule import (
    Answer,
    BadValueError,
    Rule,
    parse_network,
    parse_port,
    parse_program,
    parse_user,
    programs_on_disk,
    quoted,
    user_id,
)

VERSION = 1
"""The version of the format that is read."""

MAX_SIZE = 4 * 1024 * 1024
"""The largest policy file, in bytes."""

_T = TypeVar("_T")
_TOP_KEYS = ("version", "default", "rule")
_DIRECTIONS = {direction.word: direction for direction in Direction}
_ANSWERS = {answer.value: answer for answer in Answer}
_SYNTAX_POSITION = re.compile(
    r"(?P<problem>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)", re.S
)
_SYNTAX_REMEDIES = {
    "Invalid value": 'put text in "quotes", a list in [brackets] with commas',
    "Cannot overwrite a value": "remove the key that is there for the second time",
    "Cannot declare": "join it with the table of the same name above it",
    "Illegal character": "remove the character or write its escape",
}


class PolicyError(ValueError):
    """A policy that cannot be used. Its text is one line: ``FILE:LINE:COLUMN: what is wrong; what to do``.

    ``line`` and ``column`` are counted from 1; both are 1 where the file as a whole is meant.
    """

    def __init__(self, where: str, line: int, column: int, problem: str, remedy: str) -> None:
        """Put the line together."""
        super().__init__(f"{where}:{line}:{column}: {problem}; {remedy}")
        self.where = where
        self.line = line
        self.column = column
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules, the first that matches wins, and an answer per direction for when none does.

    A direction that is missing from ``defaults`` is accepted.
    """

    rules: tuple[Rule, ...] = ()
    defaults: Mapping[Direction, Answer] = field(default_factory=dict, hash=False)

    def default(self, direction: Direction) -> Answer:
        """The answer for a connection that no rule matches."""
        return self.defaults.get(direction, Answer.ACCEPT)

    @classmethod
    def parse(
        cls, text: str, where: str = "policy.toml", find_user: Callable[[str], int] = user_id
    ) -> Policy:
        """The policy that a TOML text describes (docs/reference/policy.md). Raises `PolicyError`.

        ``find_user`` turns a user's name into a uid and raises KeyError for an unknown one; by default it
        asks this host's user database.
        """
        return _Reader(text, where, find_user).policy()

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """The policy of a file in UTF-8. Raises `PolicyError`, also when the file cannot be read."""
        where = str(path)
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = "check its path and its permissions"
            raise PolicyError(where, 1, 1, f"the file cannot be read ({reason})", remedy) from None
        if len(data) > MAX_SIZE:
            raise PolicyError(where, 1, 1, f"the file has more than {MAX_SIZE} bytes", "make it smaller")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            before = data[: error.start].decode()
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise PolicyError(where, line, column, "this is not UTF-8", "save the file as UTF-8") from None
        return cls.parse(text, where)

    def on_this_host(self) -> Policy:
        """The same policy with the executables that this host's symbolic links lead to added to each rule."""
        return replace(
            self,
            rules=tuple(replace(rule, programs=programs_on_disk(rule)) for rule in self.rules),
        )


class _Reader:
    """Reads one text. What is wrong is raised as `PolicyError` at its place."""

    def __init__(self, text: str, where: str, find_user: Callable[[str], int]) -> None:
        self._text = text.replace("\r\n", "\n")
        self._where = where
        self._positions = Positions(self._text)
        # Dimension in the file -> field of Rule, accepted types, their name, parser of one element.
        self._dimensions: dict[str, tuple[str, tuple[type, ...], str, Callable[[Any], Any]]] = {
            "program": ("programs", (str,), "a path", parse_program),
            "user": ("users", (str, int), "a name or a number", lambda v: parse_user(v, find_user)),
            "direction": ("directions", (str,), "a word", lambda v: _word("direction", v, _DIRECTIONS)),
            "remote": ("remote", (str,), "an address or a network", parse_network),
            "local": ("local", (str,), "an address or a network", parse_network),
            "port": ("ports", (str, int), "a port", parse_port),
        }

    def policy(self) -> Policy:
        document = self._toml()
        self._version(document)
        self._known_keys(document, (), _TOP_KEYS, "a policy")
        return Policy(tuple(self._rules(document)), self._defaults(document))

    def _error(self, path: KeyPath, problem: str, remedy: str, *, key: bool = False) -> PolicyError:
        return self._error_at(self._positions.of(path, key=key), problem, remedy)

    def _error_at(self, offset: int, problem: str, remedy: str) -> PolicyError:
        return PolicyError(self._where, *self._positions.line_and_column(offset), problem, remedy)

    def _toml(self) -> dict[str, Any]:
        try:
            self._positions.scan()
        except BadValueError as bad:
            raise self._error_at(self._positions.last, bad.problem, bad.remedy) from None
        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise self._syntax_error(str(error)) from None

    def _syntax_error(self, message: str) -> PolicyError:
        match = _SYNTAX_POSITION.fullmatch(message)
        assert match is not None, message
        problem = match["problem"]
        remedies = (remedy for start, remedy in _SYNTAX_REMEDIES.items() if problem.startswith(start))
        remedy = next(remedies, 'write key = "text" or key = ["text", "text"]')
        if len(problem) > 100:
            problem = f"{problem[:97]}..."
        if match["line"] is None:
            return self._error_at(len(self._text), f"this is not TOML: {problem} before the end", remedy)
        line, column = int(match["line"]), int(match["column"])
        return PolicyError(self._where, line, column, f"this is not TOML: {problem}", remedy)

    def _known_keys(self, table: dict[str, Any], path: KeyPath, known: tuple[str, ...], owner: str) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, 1)
                remedy = f"did you mean {near[0]}?" if near else f"the keys are {_listed(known, 'and')}"
                raise self._error((*path, key), f"{owner} has no key {quoted(key)}", remedy, key=True)

    def _version(self, document: dict[str, Any]) -> None:
        if "version" not in document:
            remedy = f"begin it with version = {VERSION}"
            raise PolicyError(self._where, 1, 1, "the policy does not say its version", remedy)
        version = document["version"]
        if type(version) is not int or version != VERSION:
            problem = f"the policy's version is {quoted(version)}"
            raise self._error(("version",), problem, f"write version = {VERSION}, the only one there is")

    def _defaults(self, document: dict[str, Any]) -> dict[Direction, Answer]:
        table = document.get("default", {})
        if not isinstance(table, dict):
            remedy = 'write [default] and below it lines like out = "accept"'
            raise self._error(("default",), "default is not a table", remedy)
        self._known_keys(table, ("default",), tuple(_DIRECTIONS), "[default]")
        return {_DIRECTIONS[key]: self._answer(value, ("default", key)) for key, value in table.items()}

    def _rules(self, document: dict[str, Any]) -> Iterator[Rule]:
        tables = document.get("rule", [])
        if not isinstance(tables, list):
            raise self._error(("rule",), "rule is not a list of tables", "write [[rule]] in double brackets")
        lines: dict[str, int] = {}
        for index, table in enumerate(tables):
            path: KeyPath = ("rule", index)
            if not isinstance(table, dict):
                raise self._error(path, "this rule is not a table", "write [[rule]] and its keys below it")
            rule = self._rule(table, path)
            if rule.name in lines:
                problem = f"the rule of line {lines[rule.name]} has the name {quoted(rule.name)} too"
                raise self._error((*path, "name"), problem, "give each rule its own name")
            lines[rule.name] = rule.line
            yield rule

    def _rule(self, table: dict[str, Any], path: KeyPath) -> Rule:
        self._known_keys(table, path, ("name", *self._dimensions, "verdict"), "a rule")
        line, _ = self._positions.line_and_column(self._positions.of(path, key=True))
        if "verdict" not in table:
            remedy = f'add a line like verdict = "block" ({_listed(_ANSWERS, "or")})'
            raise self._error(path, "the rule has no verdict", remedy, key=True)
        fields: dict[str, Any] = {
            self._dimensions[key][0]: tuple(self._elements(key, value, (*path, key)))
            for key, value in table.items()
            if key in self._dimensions
        }
        if "directions" in fields:
            fields["directions"] = frozenset(fields["directions"])
        answer = self._answer(table["verdict"], (*path, "verdict"))
        return Rule(name=self._name(table, path), answer=answer, line=line, **fields)

    def _name(self, table: dict[str, Any], path: KeyPath) -> str:
        name = table.get("name", f"rule {int(path[-1]) + 1}")
        if not isinstance(name, str) or not name or not name.isprintable():
            problem = f"{quoted(name)} is not a name"
            raise self._error((*path, "name"), problem, "write it as text on one line")
        return name

    def _answer(self, value: object, path: KeyPath) -> Answer:
        try:
            return _word("verdict", value, _ANSWERS)
        except BadValueError as bad:
            raise self._error(path, bad.problem, bad.remedy) from None

    def _elements(self, key: str, value: object, path: KeyPath) -> Iterator[Any]:
        """The parsed elements of one dimension, which is a single value or a list of them."""
        _, types, kind, parse = self._dimensions[key]
        if value == []:
            raise self._error(path, f"the list {key} is empty", "leave the key out to mean any")
        for index, element in enumerate(value if isinstance(value, list) else [value]):
            place = (*path, index) if isinstance(value, list) else path
            if type(element) not in types:
                problem = f"{key} has {quoted(element)} where {kind} is expected"
                raise self._error(place, problem, f"write {kind} or a list of them")
            try:
                yield parse(element)
            except BadValueError as bad:
                raise self._error(place, bad.problem, bad.remedy) from None


def _word(kind: str, value: object, words: Mapping[str, _T]) -> _T:
    """What a word stands for. Raises `BadValueError`."""
    if isinstance(value, str):
        if value in words:
            return words[value]
        if near := get_close_matches(value, words, 1):
            raise BadValueError(f"there is no {kind} {quoted(value)}", f"did you mean {near[0]}?")
    raise BadValueError(f"there is no {kind} {quoted(value)}", f"write {_listed(words, 'or')}")


def _listed(words: Iterable[str], last: str) -> str:
    """Words as a sentence has them: ``a, b or c``."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}"
