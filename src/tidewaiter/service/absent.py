"""What a policy refers to and is not there: it is read all the same, and decides otherwise than it looks."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer


def absent(policy: Policy) -> Iterator[str]:
    """A sentence for each file of a list or of geography that is not there, and each function whose module is not.

    No module is imported: to look at a policy runs no code that it names.
    """
    base = Path(policy.files[0]).parent if policy.files else Path()
    for name, source in policy.lists.items():
        for path in source.paths:
            there = glob(path, root_dir=base)  # noqa: PTH207  # which has no root_dir
            if not there and not (base / path).exists():
                yield f"list {name!r}: {base / path} is not there"
    for kind, path in policy.geography.items():
        if not (base / path).exists():
            yield f"geography, {kind}: {base / path} is not there"
    python = [rule for rule in policy.rules if rule.answer is Answer.PYTHON]
    for name, rule in {rule.function: rule for rule in reversed(python)}.items():
        if find_spec(name.partition(".")[0]) is None:
            yield f"{rule.file}:{rule.line}:1: the module of {name} is not there; have PYTHONPATH lead to it"
