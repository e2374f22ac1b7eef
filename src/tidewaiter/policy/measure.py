"""What a compiled policy is made of: how many rules the kernel decides, and what each dimension and table takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tidewaiter.policy.classifier import Classifier
from tidewaiter.policy.document import Policy
from tidewaiter.policy.tables import KERNEL_CAPACITY, compile_tables, needs_python

_SET = 32  # bytes of a set in the kernel's maps (struct tw_bits)
_PROGRAM, _VALUE, _RANGE = 512 + 4, 8 + _SET, 24 + _SET


@dataclass(frozen=True, slots=True)
class Measured:
    """``dimensions``: rules that name each and its values. ``tables``: entries and bytes of each in the kernel.

    ``because`` counts the dimensions for which rules need Python. ``milliseconds`` is what compiling took.
    """

    rules: int
    off: int
    in_kernel: int
    beyond: int
    dimensions: dict[str, tuple[int, int]]
    because: dict[str, int]
    tables: dict[str, tuple[int, int]]
    milliseconds: float

    def as_object(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "rules": self.rules,
            "off": self.off,
            "kernel": self.in_kernel,
            "consult": self.rules - self.in_kernel,
            "beyond": self.beyond,
            "dimensions": {
                name: {"rules": rules, "values": n} for name, (rules, n) in self.dimensions.items()
            },
            "because": self.because,
            "tables": {name: {"entries": n, "bytes": size} for name, (n, size) in self.tables.items()},
            "kernel_bytes": sum(size for _, size in self.tables.values()),
            "milliseconds": round(self.milliseconds, 1),
        }

    def lines(self, *, details: bool) -> Iterator[str]:
        """The same for people."""
        yield (
            f"{self.rules} rules: {self.in_kernel} decided in the kernel, {self.rules - self.in_kernel} in Python "
            f"({self.beyond} beyond the kernel's last); {self.off} switched off; "
            f"compiled in {self.milliseconds:.0f} ms"
        )
        if not details:
            return
        for name, (rules, values) in self.dimensions.items():
            yield f"  {name:<14} {rules:>7} rules {values:>8} values"
        for name, count in self.because.items():
            yield f"  in Python because of {name}: {count}"
        for name, (entries, size) in self.tables.items():
            yield f"  kernel table {name:<9} {entries:>7} entries {size:>9} bytes"


def measure(policy: Policy) -> Measured:
    """Compiles a policy and looks at what came of it."""
    before = time.perf_counter()
    tables = compile_tables(policy, KERNEL_CAPACITY)
    Classifier(policy)
    after = time.perf_counter()
    rules: Counter[str] = Counter()
    values: dict[str, set[Any]] = {}
    because: Counter[str] = Counter()
    for rule in policy.rules:
        because.update(needs_python(rule))
        conditions = list(rule.conditions())
        rules.update({condition.dimension for condition in conditions})
        for condition in conditions:
            values.setdefault(condition.dimension, set()).update(condition.values)
    return Measured(
        rules=len(policy.rules),
        off=sum(not policy.is_on(rule) for rule in policy.rules),
        in_kernel=sum(not action.consult for action in tables.actions[: tables.rules]),
        beyond=len(policy.rules) - tables.rules,
        dimensions={name: (rules[name], len(values[name])) for name in sorted(rules)},
        because=dict(because.most_common()),
        tables={
            "programs": (len(tables.programs), len(tables.programs) * (_PROGRAM + _VALUE)),
            "users": (len(tables.users), len(tables.users) * _VALUE),
            "remote": (len(tables.remote), len(tables.remote) * _RANGE),
            "local": (len(tables.local), len(tables.local) * _RANGE),
            "ports": (len(tables.ports), len(tables.ports) * _RANGE),
        },
        milliseconds=(after - before) * 1000,
    )
