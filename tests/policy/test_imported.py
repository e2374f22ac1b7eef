"""What comes of an import: names that differ, lines for people, a text."""

from __future__ import annotations

import pytest

from tidewaiter.policy import Policy
from tidewaiter.policy.imported import CannotCarryError, Imported


def test_names_and_notes() -> None:
    found = Imported("From elsewhere.\nreally", {"out": "ask"})
    for _ in range(3):
        found.rules.append({"name": found.name("a\nb"), "verdict": "drop"})
    found.carried("x", "well")
    found.refuse("y", CannotCarryError("no"))
    assert [rule["name"] for rule in found.rules] == ["a?b", "a?b (2)", "a?b (3)"]
    assert (found.notes, found.lost) == (["x: well", "y: not carried over: no"], 1)
    assert found.text().startswith("# From elsewhere. really\nversion = 1\n")
    assert len(Policy.parse(found.text()).rules) == 3


def test_what_a_policy_cannot_have_is_not_taken() -> None:
    found = Imported("", {})
    found.add([{"name": "a", "list": "ads", "verdict": "drop"}], {"ads": {"path": "/ads"}})
    with pytest.raises(CannotCarryError, match="the port 70000 is too large; write 0 to 65535"):
        found.add([{"name": "b", "port": 70000, "verdict": "drop"}], {"bad": {"path": "/bad"}})
    assert [rule["name"] for rule in found.rules] == ["a"]
    assert list(found.lists) == ["ads"]
