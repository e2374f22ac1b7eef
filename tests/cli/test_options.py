"""cli/options.py: the options of every command that runs a firewall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli.options import VERDICTS, firewall_options, load_policy, state_folder
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, PolicyError


@click.command()
@firewall_options
def command(**options: Any) -> None:
    click.echo(repr(options))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def options(*arguments: str) -> dict[str, Any]:
    @click.command()
    @firewall_options
    @click.pass_context
    def command(context: click.Context, /, **_: Any) -> None:
        context.obj.update(context.params)

    found: dict[str, Any] = {}
    result = CliRunner().invoke(command, arguments, obj=found)
    assert result.exit_code == 0, result.stderr
    return found


def test_without_any() -> None:
    assert options() == {
        "policy_file": None,
        "fail": "closed",
        "timeout": 30.0,
        "on_timeout": "block",
        "held": 1024,
        "count": True,
        "as_json": False,
    }


def test_with_all() -> None:
    given = ["--policy", "p.toml", "--fail", "open", "--timeout", "0.5", "--on-timeout", "drop"]
    assert options(*given, "--held", "64", "--no-count", "--json") == {
        "policy_file": "p.toml",
        "fail": "open",
        "timeout": 0.5,
        "on_timeout": "drop",
        "held": 64,
        "count": False,
        "as_json": True,
    }


@pytest.mark.parametrize("seconds", ["0.01", "3600"])
def test_times_that_can_be(seconds: str) -> None:
    assert options("--timeout", seconds)["timeout"] == float(seconds)


@pytest.mark.parametrize("seconds", ["0", "-1", "3601", "inf", "-inf", "nan", "soon", ""])
def test_times_that_cannot(seconds: str) -> None:
    result = run("--timeout", seconds)
    assert (result.exit_code, result.stdout) == (2, "")
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: Invalid value for '--timeout': ")
    assert error.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail", "maybe"], "'maybe' is not one of 'open', 'closed'."),
        (["--held", "0"], "0 is not in the range 1<=x<=65536."),
        (["--on-timeout", "ask"], "'ask' is not one of 'accept', 'block', 'drop'."),
        (["--policy"], "Option '--policy' requires an argument."),
        (["--polcy", "x"], "No such option '--polcy'"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]


def test_help_says_the_defaults() -> None:
    said = " ".join(run("--help").stdout.split())
    for default in (
        "[default: closed]",
        "[default: block]",
        "[default: 30.0; 0.01<=x<=3600]",
        "[default: 1024; 1<=x<=65536]",
    ):
        assert default in said
    names = ("--policy FILE", "--fail", "--timeout", "--on-timeout", "--held", "--json")
    assert [said.index(name) for name in names] == sorted(said.index(name) for name in names)


def test_every_answer_is_for_the_whole_connection() -> None:
    assert {word: verdict.word for word, verdict in VERDICTS.items()} == {word: word for word in VERDICTS}
    assert all(verdict.permanent for verdict in VERDICTS.values())
    assert Verdict.PERMANENT_BLOCK is VERDICTS["block"]


def test_without_a_policy_all_is_accepted() -> None:
    for none in (None, ""):
        policy = load_policy(none)
        assert policy.rules == ()
        assert {policy.default(direction) for direction in Direction} == {Answer.ACCEPT}


def test_the_policy_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('version = 1\n[default]\nout = "ask"\n')
    assert load_policy(str(path)).default(Direction.OUT) is Answer.ASK


def test_a_bad_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('version = 1\n[default]\nout = "maybe"\n')
    with pytest.raises(PolicyError, match=rf"^{path}:3:7: "):
        load_policy(str(path))


def test_where_lists_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/anna")
    assert state_folder(tmp_path, "lab") == tmp_path
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_folder(None, "lab") == Path("/var/lib/tidewaiter/lab")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert state_folder() == Path("/home/anna/.local/state/tidewaiter/host")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/tidewaiter/host")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert state_folder() == Path("/var/lib/one/host")
