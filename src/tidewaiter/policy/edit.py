"""Changes of a policy file's text: a rule is put in, taken out, moved, switched. All else stays as it was written.

A text is cut where its tables begin and where they end. The comment right above ``[[rule]]`` goes with the rule, and so
does one right below its last key; what stands apart behind a blank line, like the heading of a section, stays where it
is. Only the piece that is changed is read by tomlkit, so a change in a file of ten thousand rules is as quick as in a
small one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Item, Table

from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.positions import BOM, Positions
from tidewaiter.policy.words import quoted
from tidewaiter.policy.writing import toml_policy

_REST = re.compile(r"[^\n]*+\n?(?:[ \t]*+#[^\n]*+(?:\n|\Z))*+(?:[ \t]*+\n)*+")
"""The rest of a table's last line, the comments right below it, and blank lines."""


class EditError(ValueError):
    """A change that cannot be made, in one sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule shall stand: ``first``, ``last``, or ``before`` or ``after`` the rule with a ``name``."""

    where: str = "last"
    name: str = ""


class Pieces:
    """A text in pieces: what stands above all tables, then each table with its comment.

    The comments between two tables that belong to neither are a piece of their own, without a name.
    """

    def __init__(self, text: str) -> None:
        """Raises EditError for a text whose rules are not tables of their own."""
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._begin = BOM if text.startswith(BOM) else ""
        text = text.removeprefix(BOM).replace("\r\n", "\n")
        positions = _scanned(text)
        heads = [(at, parts) for at, parts in positions.headers if parts[0] != "rule" or len(parts) == 1]
        if "rule" not in [parts[0] for _, parts in heads] and ("rule",) in positions.keys:
            raise EditError(
                "the rules of this file are one list: write each as [[rule]] to have them changed"
            )
        cuts = list(_cuts(text, heads, positions.ends))
        starts = [start for start, _ in cuts]
        self.top = text[: starts[0]] if starts else text
        self.parts = [name for _, name in cuts]
        self.texts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=False)]

    def text(self) -> str:
        """The whole, with the line ends that it had."""
        return self._begin + (self.top + "".join(self.texts)).replace("\n", self._line_end)

    def rules(self) -> list[int]:
        """Which pieces are rules, in their order."""
        return [index for index, name in enumerate(self.parts) if name == "rule"]

    def find(self, name: str) -> int:
        """The piece of a rule. Raises EditError."""
        for number, index in enumerate(self.rules(), 1):
            if _table(self.texts[index]).get("name", f"rule {number}") == name:
                return index
        raise EditError(f"this file has no rule {quoted(name)}")

    def put(self, text: str, place: Place, beside: str = "") -> None:
        """Puts a rule to its place; ``beside`` is the piece that the place names, if known. Raises EditError."""
        rules = self.rules()
        text = text.strip("\n") + "\n"
        if place.where in {"before", "after"}:
            at = self.texts.index(beside) if beside else self.find(place.name)
            at += place.where == "after"
        elif not rules:
            at = len(self.texts)
        else:
            at = rules[0] if place.where == "first" else rules[-1] + 1
        before = self.texts[at - 1] if at else self.top
        if not before.endswith("\n\n"):
            self._end(at - 1, "\n" if before.endswith("\n") or not before else "\n\n")
        if at < len(self.texts):
            text += "\n"
        self.texts.insert(at, text)
        self.parts.insert(at, "rule")

    def take(self, name: str) -> str:
        """Takes a rule out, with its comment."""
        index = self.find(name)
        del self.parts[index]
        return self.texts.pop(index)

    def _end(self, index: int, end: str) -> None:
        if index < 0:
            self.top += end
        else:
            self.texts[index] += end


def add_rule(text: str, words: Mapping[str, Any], place: Place, comment: str = "") -> str:
    """The text with one more rule. Raises EditError."""
    pieces = Pieces(text)
    body = toml_policy({"rule": [words]}, {str(words.get("name", "")): comment}).split("\n", 2)[2]
    pieces.put(body, place)
    return pieces.text()


def remove_rule(text: str, name: str) -> str:
    """The text without a rule and the comment above it. Raises EditError."""
    pieces = Pieces(text)
    pieces.take(name)
    return pieces.text()


def move_rule(text: str, name: str, place: Place) -> str:
    """The text with a rule at another place. Raises EditError."""
    if place.name == name:
        raise EditError("a rule cannot stand before or behind itself")
    pieces = Pieces(text)
    mark = (
        pieces.texts[pieces.find(place.name)] if place.name else ""
    )  # what has no name is named by its place
    pieces.put(pieces.take(name), place, mark)
    return pieces.text()


def enable_rule(text: str, name: str, *, on: bool) -> str:
    """The text with a rule switched on or off. Raises EditError."""
    pieces = Pieces(text)
    index = pieces.find(name)
    document = _document(pieces.texts[index])
    table = document["rule"][0]
    _switch(table, on)
    pieces.texts[index] = tomlkit.dumps(document)
    return pieces.text()


def enable_group(text: str, name: str, *, on: bool) -> str:
    """The text with a group of rules switched on or off. Raises EditError."""
    pieces = Pieces(text)
    for index, found in enumerate(pieces.parts):
        document = _document(pieces.texts[index]) if found.startswith("group") else None
        table = document.get("group", {}).get(name) if document is not None else None
        if document is not None and table is not None:
            _switch(table, on)
            pieces.texts[index] = tomlkit.dumps(document)
            return pieces.text()
    head = toml_policy({"group": {name: {"enabled": on}}}).split("\n", 2)[2]
    pieces.texts.insert(0, f"{head}\n")
    pieces.parts.insert(0, "group")
    if pieces.top and not pieces.top.endswith("\n\n"):
        pieces.top += "\n" if pieces.top.endswith("\n") else "\n\n"
    return pieces.text()


def has_group(text: str, name: str) -> bool:
    """Whether a text has a table for a group of rules. Raises EditError."""
    return ("group", name) in _scanned(text).keys


def _scanned(text: str) -> Positions:
    positions = Positions(text.removeprefix(BOM))
    try:
        positions.scan()
    except BadValueError as bad:
        raise EditError(str(bad)) from None
    return positions


def _switch(table: Table | InlineTable, on: bool) -> None:
    """``enabled = true`` is what holds without it, so it is left only where it has a comment."""
    there = table.value.item("enabled") if "enabled" in table else None
    if on and isinstance(there, Item) and not there.trivia.comment:
        table.remove("enabled")
    elif not on or there is not None:
        table["enabled"] = on


def _cuts(text: str, heads: list[tuple[int, tuple[str, ...]]], ends: list[int]) -> Iterator[tuple[int, str]]:
    """Where each piece begins, and its name."""
    end = max((one for one in ends if heads and one <= heads[0][0]), default=0)  # of what stands above
    for index, (at, parts) in enumerate(heads):
        yield _with_comment(text, at, end), ".".join(parts)
        following = heads[index + 1][0] if index + 1 < len(heads) else len(text)
        end = ends[bisect_right(ends, following) - 1]
        rest = _REST.match(text, end)
        apart = rest.end() if rest else end
        if apart < (_with_comment(text, following, end) if index + 1 < len(heads) else following):
            yield apart, ""


def _with_comment(text: str, at: int, lowest: int) -> int:
    """Where the comment begins that stands right above a place, or the line of the place; never above ``lowest``."""
    start = text.rfind("\n", 0, at) + 1
    while start > lowest:
        above = text.rfind("\n", 0, start - 1) + 1
        if above < lowest or not text[above:start].lstrip().startswith("#"):
            break
        start = above
    return start


def _document(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, RecursionError, ValueError) as error:
        raise EditError(f"this is not TOML ({str(error)[:80]})") from None


def _table(text: str) -> Mapping[str, Any]:
    """The rule in a piece."""
    found = _document(text).get("rule")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], Mapping) else {}
