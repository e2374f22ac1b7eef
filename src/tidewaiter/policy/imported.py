"""What came of a policy of another firewall: rules in the words of ours, and a line about each of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.writing import toml_policy


class CannotCarryError(ValueError):
    """A rule that has no counterpart here: why."""


@dataclass(slots=True)
class Imported:
    """A policy in the making. ``notes`` are lines for people; ``lost`` counts what could not be carried over."""

    title: str
    default: dict[str, str]
    rules: list[dict[str, Any]] = field(default_factory=list)
    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: int = 0

    def name(self, wanted: str) -> str:
        """A name for a rule that no other one has."""
        wanted = "".join(one if one.isprintable() else "?" for one in wanted) or "rule"
        name, number, taken = wanted, 2, {rule["name"] for rule in self.rules}
        while name in taken:
            name, number = f"{wanted} ({number})", number + 1
        return name

    def add(self, rules: list[dict[str, Any]], lists: Mapping[str, dict[str, Any]]) -> None:
        """Takes the rules that one of theirs becomes, with the lists that they name.

        Raises `CannotCarryError` if a policy could not have them: one of them would make all of it unusable.
        """
        words = {"list": lists, "rule": rules}
        try:
            Policy.parse(toml_policy(words))
        except PolicyError as error:
            raise CannotCarryError(f"{error.problem}; {error.remedy}") from None
        self.rules += rules
        self.lists |= lists

    def carried(self, where: str, text: str) -> None:
        """Notes what became of a rule."""
        self.notes.append(f"{where}: {text}")

    def refuse(self, where: str, error: CannotCarryError | BadValueError) -> None:
        """Notes that a rule could not be carried over, and why."""
        self.lost += 1
        self.notes.append(f"{where}: not carried over: {error}")

    def text(self) -> str:
        """The policy as TOML."""
        words: dict[str, Any] = {
            "version": 1,
            "default": self.default,
            "list": self.lists,
            "rule": self.rules,
        }
        return toml_policy(words, self.comments, self.title)
