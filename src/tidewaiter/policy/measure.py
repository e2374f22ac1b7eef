"""What a compiled policy is made of: how many rules the kernel decides, and what each dimension and table takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tidewaiter.policy.classifier import Classifier
from tidewaiter.policy.document import Policy
from tidewaiter.policy.tables import KERNEL_CAPACITY, KernelTables, compile_tables, needs_python

# bytes of an entry in the kernel's maps, key and value (kernel/types.h, kernel/maps.h)
_BLOCK, _SET = 8 + 32, 8 + KERNEL_CAPACITY // 8
_ENTRY = {"program": 512 + 4 + 8 + 48, "user": 8 + 48, "remote": 24 + 48, "local": 24 + 48, "port": 24 + 48}
_NAMES = {"program": "programs", "user": "users", "port": "ports"}
_SETS = 9 * _SET + KERNEL_CAPACITY // 8 + 5 * 8  # struct tw_policy
_ACTION = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """``dimensions``: rules that name each and its values. ``tables``: entries and bytes of each in the kernel, which
    keeps the policy before this one too.

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
        in_kernel=tables.in_kernel,
        beyond=len(policy.rules) - len(tables.rules),
        dimensions={name: (rules[name], len(values[name])) for name in sorted(rules)},
        because=dict(because.most_common()),
        tables=_tables(tables),
        milliseconds=(after - before) * 1000,
    )


def _tables(tables: KernelTables) -> dict[str, tuple[int, int]]:
    """Entries and bytes of each table of the kernel, as many as one policy takes."""
    found = {
        _NAMES.get(name, name): (len(named), len(named) * _ENTRY[name])
        for name, named in tables.named.items()
    }
    blocks = sum(
        max(0, _blocks(bits or 0) - 1)
        for named in tables.named.values()
        for _, bits in named.turned(named.keys())
    )
    return found | {
        "blocks": (blocks, blocks * _BLOCK),
        "sets": (1, _SETS),
        "actions": (KERNEL_CAPACITY, KERNEL_CAPACITY * _ACTION),
    }


def _blocks(bits: int) -> int:
    """How many blocks of a set are not empty; the first has room beside its value."""
    return len([at for at in range(0, bits.bit_length(), 256) if bits >> at & (1 << 256) - 1])
