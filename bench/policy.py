"""Policies in Python: ten thousand rules loaded, decided and changed, beside what their parts cost at least."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import tomli
from harness import rounds, save, show

from tidewaiter.model.key import Direction
from tidewaiter.policy import Classifier, Facts, Policy

RULES = 10_000
DECISIONS = 3_000
CHANGES = 20


def text() -> str:
    """Rules on program, user, remote network, port and name, as people have them."""
    return "version = 1\n" + "".join(
        f'[[rule]]\nname = "rule {n}"\nprogram = "/usr/lib/vendor{n % 3000}/bin/tool{n % 5000}"\n'
        f'remote = "10.{n >> 8}.{n & 255}.0/24"\nport = "{1000 + n % 5000}/tcp"\nuser = {n % 50}\n'
        + (f'host = ".zone{n}.example"\n' if n % 2 else "")
        + 'verdict = "block"\n'
        for n in range(RULES)
    )


def connections(count: int) -> list[Facts]:
    """Each meant for some rule."""
    dice, made = random.Random(1), []
    for _ in range(count):
        n = dice.randrange(RULES)
        made.append(
            Facts(
                f"/usr/lib/vendor{n % 3000}/bin/tool{n % 5000}",
                n % 50,
                Direction.OUT,
                6,
                ip_address("10.9.9.9"),
                40000,
                ip_address(f"10.{n >> 8}.{n & 255}.{dice.randrange(256)}"),
                1000 + n % 5000,
                names=(f"www.zone{n}.example",),
            )
        )
    return made


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def every(classifier: Classifier, those: list[Facts]) -> None:
    """Decides them all."""
    for facts in those:
        classifier.decide(facts)


def ands(dimensions: int) -> float:
    """The floor of a decision: the AND of the sets alone, in seconds."""
    dice = random.Random(2)
    sets = [dice.getrandbits(RULES + 1) | 1 << RULES for _ in range(dimensions)]

    def work() -> None:
        for _ in range(DECISIONS):
            matching = -1
            for one in sets:
                matching &= one

    return seconds(work) / DECISIONS


def main() -> None:
    """Medians of rounds; "first" is a connection whose sets no other has needed before."""
    written, those = text(), connections(DECISIONS)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds()):
        note("read the file, s", seconds(lambda: Policy.parse(written)))
        note("  of it TOML alone, s", seconds(lambda: tomli.loads(written)))
        policy = Policy.parse(written)
        note("compile, s", seconds(lambda p=policy: Classifier(p)))  # type: ignore[misc]
        classifier = Classifier(policy)
        note("decide, first, µs", seconds(lambda c=classifier: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        note("decide, again, µs", seconds(lambda c=classifier: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        few = those[:200] * (DECISIONS // 200)
        every(classifier, few)
        note("decide, 200 in turn, µs", seconds(lambda c=classifier, f=few: every(c, f)) / len(few) * 1e6)  # type: ignore[misc]
        note("  of it the sets alone, µs", ands(5) * 1e6)
        small = Classifier(Policy(policy.rules[:1]))
        note("decide, one rule, µs", seconds(lambda c=small: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        rules = list(policy.rules)
        for n in range(CHANGES):
            rules[n * 400] = replace(rules[n * 400], users=(n + 100,))
            following = Policy(tuple(rules))
            note("change one rule, ms", seconds(lambda c=classifier, p=following: c.update(p)) * 1e3)  # type: ignore[misc]
    medians = {name: statistics.median(values) for name, values in found.items()}
    show(
        f"{RULES:,} rules in Python",
        ["", "median"],
        [[name, f"{value:.3f}"] for name, value in medians.items()],
    )
    save("policy", medians)


if __name__ == "__main__":
    main()
