"""Rules that were read before, by the text that they were read from: most of what is read again is as it was."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from tidewaiter.policy.rule import Rule

KEPT = 32768
"""Rules that are kept; when there are more, all go."""

_HEADER = re.compile(r"^[ \t]*\[(?P<rule>\[rule\]\])?", re.MULTILINE)


class Piece(NamedTuple):
    """The text of one rule, from its header to the next, and the line that it begins in."""

    text: str
    line: int


def pieces(text: str) -> tuple[str, list[Piece]] | None:
    """What stands before the first rule of a plain text, and the rules; None where other tables stand behind a rule.

    In a plain text (`tidewaiter.policy.positions.is_plain`) tables begin where a line begins with a bracket.
    """
    headers = list(_HEADER.finditer(text))
    first = next((number for number, header in enumerate(headers) if header["rule"]), len(headers))
    if not all(header["rule"] for header in headers[first:]):
        return None
    starts = [header.start() for header in headers[first:]]
    found, last = [], 0
    line = 1
    for start, end in zip(starts, [*starts[1:], len(text)], strict=False):
        line += text.count("\n", last, start)
        found.append(Piece(text[start:end], line))
        last = start
    return text[: starts[0]] if starts else text, found


class Remembered:
    """The rules by their texts, and where these stood: a file, which is the main one or not."""

    def __init__(self) -> None:
        """None is known."""
        self._rules: dict[tuple[str, bool, str], Rule] = {}

    def get(self, where: str, main: bool, piece: Piece) -> Rule | None:
        """The rule of a text, as one of this line."""
        rule = self._rules.get((where, main, piece.text))
        return rule if rule is None or rule.line == piece.line else replace(rule, line=piece.line)

    def put(self, where: str, main: bool, text: str, rule: Rule) -> None:
        """Keeps a rule that depends on nothing but its text."""
        if len(self._rules) >= KEPT:
            self._rules.clear()
        self._rules[where, main, text] = rule


RULES = Remembered()
"""Those of this process."""
