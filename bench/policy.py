"""Ten thousand rules: read, decided by and changed, in Python and in the kernel, beside what is aimed at."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import tomli
from harness import rounds, save, show

from tidewaiter import Firewall, Scope
from tidewaiter.lab.world import World
from tidewaiter.model.key import Direction
from tidewaiter.policy import Classifier, Facts, Policy, compile_tables
from tidewaiter.policy.measure import measure
from tidewaiter.policy.tables import KERNEL_CAPACITY

RULES = 10_000
DECISIONS = 3_000
CHANGES = 20
AIMS = {
    "read the file, s": "≤ 1 with the two below",
    "decide, first, µs": "≤ 5",
    "decide, again, µs": "≤ 5",
    "decide, 200 in turn, µs": "≤ 5",
    "put in force with one rule changed, added or removed, ms": "≤ 20",
}


def text(number: int) -> str:
    """Rules on program, user, remote network, port and name, as people have them; none that was read in another round,
    which would be remembered.
    """
    return "version = 1\n" + "".join(
        f'[[rule]]\nname = "rule {n} of {number}"\nprogram = "/usr/lib/vendor{n % 3000}/bin/tool{n % 5000}"\n'
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


def in_the_kernel(policy: Policy, note: Callable[[str, float], None]) -> None:
    """A firewall in a lab takes ten thousand rules, and then one after the other that is a little different."""
    with (
        World() as made,
        Firewall(Policy(), scope=Scope.of(made.cgroup, made.client_namespace), name=made.name) as one,
    ):
        note("put in force, s", seconds(lambda: one.load(policy)))
        note("put in force again, s", seconds(lambda: one.load(policy)))
        for following in changed(policy):
            before = time.process_time()
            took = seconds(lambda p=following: one.load(p))  # type: ignore[misc]
            note("put in force with one rule changed, added or removed, ms", took * 1e3)
            note("  of it the processor's time, ms", (time.process_time() - before) * 1e3)


def changed(policy: Policy) -> Iterator[Policy]:
    """One rule is another each time, from the first to the last: it says something else, is gone, or is new."""
    rules = list(policy.rules)
    for n in range(CHANGES):
        at = n * (len(rules) - 1) // (CHANGES - 1)
        if n % 3 == 0:
            rules[at] = replace(rules[at], users=(n + 100,))
        elif n % 3 == 1:
            del rules[at]
        else:
            rules.insert(at, replace(rules[at], name=f"new {n}", programs=(f"/usr/bin/new{n}",)))
        yield Policy(tuple(rules))


def edited(written: str, number: int) -> str:
    """The text with one rule changed, or one more near its beginning, so that all others stand on other lines."""
    if number % 2:
        head, mark, rest = written.partition(f'[[rule]]\nname = "rule 100 of {number}"')
        return f'{head}[[rule]]\nname = "new"\nuser = {number}\nverdict = "drop"\n{mark}{rest}'
    name = f'name = "rule 5000 of {number}"\n'
    return written.replace(name, f"{name}pid = {number + 1}\n")


def main() -> None:
    """Medians of rounds; "first" is a connection whose sets no other has needed before."""
    those = connections(DECISIONS)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for number in range(rounds()):
        written = text(number)
        note("read the file, s", seconds(lambda text=written: Policy.parse(text)))  # type: ignore[misc]
        note("  of it TOML alone, s", seconds(lambda text=written: tomli.loads(text)))  # type: ignore[misc]
        policy = Policy.parse(written)
        again = edited(written, number)
        note("read it again with one rule changed, s", seconds(lambda text=again: Policy.parse(text)))  # type: ignore[misc]
        note("compile for Python, s", seconds(lambda p=policy: Classifier(p)))  # type: ignore[misc]
        note("compile for the kernel, s", seconds(lambda p=policy: compile_tables(p, KERNEL_CAPACITY)))  # type: ignore[misc]
        classifier = Classifier(policy)
        note("decide, first, µs", seconds(lambda c=classifier: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        note("decide, again, µs", seconds(lambda c=classifier: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        few = those[:200] * (DECISIONS // 200)
        every(classifier, few)
        note("decide, 200 in turn, µs", seconds(lambda c=classifier, f=few: every(c, f)) / len(few) * 1e6)  # type: ignore[misc]
        note("  of it the sets alone, µs", ands(5) * 1e6)
        small = Classifier(Policy(policy.rules[:1]))
        note("decide, one rule, µs", seconds(lambda c=small: every(c, those)) / DECISIONS * 1e6)  # type: ignore[misc]
        for following in changed(policy):
            took = seconds(lambda c=classifier, p=following: c.update(p))  # type: ignore[misc]
            note("change one rule in Python, ms", took * 1e3)
        in_the_kernel(policy, note)
    note("bytes of the policy in the kernel", measure(policy).as_object()["kernel_bytes"])
    medians = {name: statistics.median(values) for name, values in found.items()}
    show(
        f"{RULES:,} rules",
        ["", "median", "aim"],
        [[name, f"{value:,.3f}", AIMS.get(name, "")] for name, value in medians.items()],
    )
    save("policy", medians)


if __name__ == "__main__":
    main()
