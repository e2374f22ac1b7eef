"""The text of a policy file as TOML, with errors that point at their places."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

import tomli

from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.index import uncollected
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.positions import BOM, KeyPath, Positions, is_plain
from tidewaiter.policy.remembered import RULES, Piece, pieces
from tidewaiter.policy.words import listed, quoted

_T = TypeVar("_T")
_SYNTAX_POSITION = re.compile(
    r"(?P<problem>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)", re.S
)
_SYNTAX_REMEDIES = {
    "Invalid value": 'put text in "quotes", a list in [brackets] with commas',
    "Cannot overwrite a value": "remove the key that is there for the second time",
    "Cannot declare": "join it with the table of the same name above it",
    "Illegal character": "remove the character or write its escape",
}


class Source:
    """One text, and where it comes from. What is wrong with it is raised as `PolicyError` at its place."""

    def __init__(self, text: str, where: str, *, main: bool = True) -> None:
        self.where, self._main = where, main
        self._pieces: list[Piece] = []
        self._text = text.removeprefix(BOM).replace("\r\n", "\n")
        self._positions = Positions(self._text)
        # What is plain has no depth, so it can be read at once; where things stand is then looked up only for an error.
        self._plain = is_plain(self._text)
        self._scanned = False

    def _at(self, path: KeyPath, read: Callable[[], _T]) -> _T:
        """What is read; what is wrong with it is said with its place."""
        try:
            return read()
        except BadValueError as bad:
            raise self._error(path, bad.problem, bad.remedy) from None

    def _known_keys(self, table: dict[str, Any], path: KeyPath, known: tuple[str, ...], owner: str) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, 1)
                remedy = f"did you mean {near[0]}?" if near else f"the keys are {listed(known, 'and')}"
                raise self._error((*path, key), f"{owner} has no key {quoted(key)}", remedy, key=True)

    def _error(self, path: KeyPath, problem: str, remedy: str, *, key: bool = False) -> PolicyError:
        self._scan()
        return self._error_at(self._positions.of(path, key=key), problem, remedy)

    def _error_at(self, offset: int, problem: str, remedy: str) -> PolicyError:
        return PolicyError(self.where, *self._positions.line_and_column(offset), problem, remedy)

    def _scan(self) -> None:
        if not self._scanned:
            self._scanned = True
            self._positions.scan()

    def _toml(self) -> dict[str, Any]:
        try:
            if not self._plain:
                self._scan()
        except BadValueError as bad:
            raise self._error_at(self._positions.last, bad.problem, bad.remedy) from None
        try:
            with uncollected():
                return self._quickly() or tomli.loads(self._text)
        except tomli.TOMLDecodeError as error:
            raise self._syntax_error(str(error)) from None

    def _quickly(self) -> dict[str, Any] | None:
        """The same, with the rules that are remembered in the places of their tables; None where that cannot be."""
        found = pieces(self._text) if self._plain else None
        if found is None:
            return None
        head, those = found
        rules = [RULES.get(self.where, self._main, piece) for piece in those]
        new = "".join(piece.text for piece, rule in zip(those, rules, strict=True) if rule is None)
        try:
            document, tables = tomli.loads(head), iter(tomli.loads(new).get("rule", []))
        except tomli.TOMLDecodeError:
            return None  # where it is wrong is said by the place in the whole text
        if "rule" in document:
            return None
        self._pieces = those
        return document | {"rule": [rule or next(tables) for rule in rules]} if rules else document

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
        return PolicyError(self.where, line, column, f"this is not TOML: {problem}", remedy)
