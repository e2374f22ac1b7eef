"""The line that is said of a policy."""

from __future__ import annotations

from tidewaiter.policy.errors import PolicyError


def test_it_has_its_parts() -> None:
    error = PolicyError("p.toml", 3, 4, "it is wrong", "make it right")
    assert str(error) == "p.toml:3:4: it is wrong; make it right"
    assert (error.where, error.line, error.column, error.problem, error.remedy) == (
        "p.toml", 3, 4, "it is wrong", "make it right",
    )  # fmt: skip
