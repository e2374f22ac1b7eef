"""The command `tidewaiter doctor`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli import doctor as command
from tidewaiter.host import doctor as machine
from tidewaiter.kernel.features import Feature

THERE = Feature("a long name to show here", "what it is for", required=True, present=True, detail="5 KiB")
OPTIONAL = Feature("small thing", "nice to have", False, False, "no such file", "apt install small")
LACKING = Feature("great thing", "all " * 30, True, False, "Invalid argument " * 9, "use another kernel")
OTHER = Feature("other thing", "as well", True, False, LACKING.detail, LACKING.remedy)


def run(monkeypatch: pytest.MonkeyPatch, *found: Feature, options: tuple[str, ...] = ()) -> Result:
    monkeypatch.setattr(command, "examine", lambda: {"kernel": list(found), "programs": [THERE]})
    return CliRunner().invoke(command.doctor, options)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is wider than what is printed."""
    monkeypatch.setenv("COLUMNS", "200")


def test_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, THERE)
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.output.splitlines()]
    row = "  a long name to show here"[:25]
    assert lines[0] == "kernel"
    assert lines[1].startswith(row[:24])
    assert lines[1].endswith("yes      what it is for")
    assert lines[-1] == "Everything that is required is there."
    assert "→" not in result.output


def test_what_is_optional_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, THERE, OPTIONAL)
    assert result.exit_code == 0
    assert "  small thing              no       nice to have" in result.output
    assert "small thing: no such file\n  → apt install small\n" in result.output


def test_what_is_required_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, THERE, OPTIONAL, LACKING, OTHER)
    assert result.exit_code == 1
    assert "  great thing              MISSING  all all" in result.output
    words = " ".join(result.output.split())
    assert "great thing, other thing: Invalid argument" in words
    assert words.count("→ use another kernel") == 1
    assert result.output.endswith("2 required things are missing.\n")
    assert run(monkeypatch, LACKING).output.endswith("1 required thing is missing.\n")


def test_it_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ((THERE,), (OPTIONAL, LACKING, OTHER)):
        output = run(monkeypatch, *found).output
        assert max(map(len, output.splitlines())) <= 80


def test_names_and_purposes_are_short_enough_for_a_line_each() -> None:
    found = [
        *machine.privilege_features(0),
        *machine.program_features(),
        *machine.machine_features(privileged=True),
    ]
    assert [one.name for one in found if len(one.name) > 23] == []
    assert [one.purpose for one in found if len(one.purpose) > 44] == []


def test_words_from_the_kernel_are_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Feature("odd", "[bold]x[/bold]", True, False, "[/nothing] [red]", "do [it]")
    output = run(monkeypatch, odd).output
    assert "[bold]x[/bold]" in output
    assert "odd: [/nothing] [red]\n  → do [it]\n" in output


def test_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, OPTIONAL, LACKING, options=("--json",))
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["complete"] is False
    assert list(found) == ["complete", "kernel", "programs"]
    assert found["kernel"][0] == {
        "name": "small thing",
        "purpose": "nice to have",
        "required": False,
        "present": False,
        "detail": "no such file",
        "remedy": "apt install small",
    }
    result = run(monkeypatch, THERE, options=("--json",))
    assert (result.exit_code, json.loads(result.output)["complete"]) == (0, True)


def test_in_truth() -> None:
    result = CliRunner().invoke(command.doctor, ["--json"])
    found = json.loads(result.output)
    assert (result.exit_code == 0) is found["complete"]
    assert {"kernel", "privileges", "programs"} < found.keys()
    assert all(one["detail"] or one["remedy"] for one in found["kernel"] if not one["present"])
