"""What a policy refers to and is not there: it is read all the same, and decides otherwise than it looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from glob import glob
from pathlib import Path

from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.rule import Answer
from tidewaiter.service.functions import functions_of


def absent(policy: Policy) -> Iterator[str]:
    """A sentence for each file of a list or of geography that is not there, and each function that cannot be called.

    To know the latter, the modules of functions are imported.
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
    calling = {rule.function: rule for rule in reversed(policy.rules) if rule.answer is Answer.PYTHON}
    for rule in reversed(calling.values()):
        try:
            functions_of(replace(policy, rules=(rule,)))
        except PolicyError as error:
            yield str(error)
