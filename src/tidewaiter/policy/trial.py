"""Cases that a policy has to decide as expected: a user's own tests of a policy, in TOML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.document import MAX_SIZE, Policy
from tidewaiter.policy.explain import Explainer
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.positions import BOM, Positions
from tidewaiter.policy.reader import ANSWERS
from tidewaiter.policy.rule import Facts, World
from tidewaiter.policy.words import quoted, word

_KEYS = frozenset(("name", "connection", "verdict", "rule"))
_VERDICTS = dict.fromkeys((*ANSWERS, "python", "undecided"))


class TrialError(ValueError):
    """A file of cases that cannot be used: ``FILE:LINE: what is wrong``."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One case: a connection, and the verdict and rule ("" for any, ``default`` for none) that are expected."""

    name: str
    line: int
    facts: Facts
    verdict: str
    rule: str


@dataclass(frozen=True, slots=True)
class Trials:
    """The cases of a file, and the policy that it names, seen from the file."""

    policy: str
    cases: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case."""

    name: str
    line: int
    passed: bool
    expected: tuple[str, str]
    found: tuple[str, str]

    def __str__(self) -> str:
        wanted = self.expected[0] + (f" by {self.expected[1]!r}" if self.expected[1] else "")
        return f"{self.name}: expected {wanted}, found {self.found[0]} by {self.found[1]!r}"

    def as_object(self) -> dict[str, Any]:
        """What ``policy test --json`` prints."""
        return {
            "case": self.name,
            "line": self.line,
            "passed": self.passed,
            "expected": {"verdict": self.expected[0], "rule": self.expected[1]},
            "found": {"verdict": self.found[0], "rule": self.found[1]},
        }


def load_trials(path: str | Path) -> Trials:
    """The cases of a file. Raises TrialError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_SIZE + 1)[:MAX_SIZE].decode()
    except (OSError, ValueError) as error:
        raise TrialError(
            f"{path}:1: the file cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    return parse_trials(text, str(path))


def parse_trials(text: str, where: str = "cases.toml") -> Trials:
    """The cases that a TOML text describes. Raises TrialError."""
    text = text.removeprefix(BOM)
    positions = Positions(text)
    try:
        positions.scan()
        document = tomli.loads(text)
    except (BadValueError, tomli.TOMLDecodeError) as error:
        raise TrialError(f"{where}:1: {error}") from None
    cases = document.get("case", [])
    policy = document.get("policy", "policy.toml")
    if (
        not isinstance(cases, list)
        or not isinstance(policy, str)
        or document.keys() - {"case", "policy", "version"}
    ):
        raise TrialError(f'{where}:1: a file of cases has policy = "FILE" and tables [[case]], nothing else')
    if not cases:
        raise TrialError(f"{where}:1: there are no cases; write some as [[case]]")
    found = []
    for index, case in enumerate(cases):
        line = positions.line_and_column(positions.of(("case", index), key=True))[0]
        try:
            found.append(_trial(case, index, line))
        except BadValueError as bad:
            raise TrialError(f"{where}:{line}: {bad}") from None
    return Trials(policy, tuple(found))


def _trial(case: object, index: int, line: int) -> Trial:
    if not isinstance(case, dict) or case.keys() - _KEYS or "connection" not in case or "verdict" not in case:
        raise BadValueError(
            "this is no case", "write connection = {…} and verdict, and perhaps name and rule"
        )
    texts = {key: case.get(key, "") for key in ("name", "verdict", "rule")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise BadValueError(f"{key} is {quoted(value)}", "write a text")
    word("verdict", texts["verdict"], _VERDICTS)
    name = texts["name"] or f"case {index + 1}"
    return Trial(name, line, facts_of(case["connection"]), texts["verdict"], texts["rule"])


def try_out(policy: Policy, world: World, trials: Trials) -> list[Result]:
    """What comes of each case."""
    explainer = Explainer(policy, world)
    results = []
    for trial in trials.cases:
        found = explainer.explain(trial.facts)
        rule = found.rule.name if found.rule else "default"
        passed = found.verdict == trial.verdict and trial.rule in ("", rule)
        results.append(
            Result(trial.name, trial.line, passed, (trial.verdict, trial.rule), (found.verdict, rule))
        )
    return results
