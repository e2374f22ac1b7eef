"""`tidewaiter cleanup`: what it removes, what it leaves alone, and what it says. The kernel is folders here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli.cleanup import cleanup
from tidewaiter.host import install, state
from tidewaiter.host.processes import read_process
from tidewaiter.host.state import State

GONE = 2**22 + 1  # above every pid (PID_MAX_LIMIT)


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state, "PINS", tmp_path / "pins")
    monkeypatch.setattr(state, "RUN", tmp_path / "run")


def leave(name: str, *, alive: bool = False) -> State:
    """What a firewall has in /run and in bpffs."""
    us = read_process(os.getpid())
    assert us is not None
    pid, started = (us.pid, us.started) if alive else (GONE, 1)
    left = State(name, pid, started, 1, "build", "enforce", False, "/", (), complete=True)
    left.save()
    (left.pins / "maps").mkdir(parents=True)
    return left


def is_there(name: str) -> bool:
    return (state.PINS / name).exists() or (state.RUN / f"{name}.json").exists()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cleanup, arguments)


def test_nothing_is_there() -> None:
    result = run()
    assert (result.exit_code, result.output) == (0, "nothing is there\n")
    result = run("--name", "lab")
    assert (result.exit_code, result.output) == (0, "lab: nothing is there\n")


def test_every_one_that_does_not_run_is_removed() -> None:
    leave("host")
    leave("lab-1")
    leave("runs", alive=True)
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "host: removed",
        "lab-1: removed",
        f"runs: runs as process {os.getpid()}, left alone",
    ]
    assert (is_there("host"), is_there("lab-1"), is_there("runs")) == (False, False, True)


def test_only_the_one_that_is_named() -> None:
    leave("host")
    leave("lab-1")
    assert run("--name", "host").output == "host: removed\n"
    assert (is_there("host"), is_there("lab-1")) == (False, True)


def test_pins_without_a_state() -> None:
    (state.PINS / "half" / "1" / "maps").mkdir(parents=True)
    """Of a firewall whose /run is another one, perhaps: only who names it means it."""
    assert run().output == "half: whether it runs is not known here, left alone; --name half removes it\n"
    assert is_there("half")
    assert run("--name", "half").output == "half: removed\n"
    assert not is_there("half")


def test_one_that_runs_and_is_named_is_refused() -> None:
    leave("host", alive=True)
    result = run("--name", "host")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: the firewall 'host' runs as process {os.getpid()}: stop it instead\n"
    assert is_there("host")


@pytest.mark.parametrize("name", ["../host", "a b", "-x", "é"])
def test_a_name_that_is_none(name: str) -> None:
    leave("host")
    result = run(f"--name={name}")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {name!r} cannot name a firewall: ")
    assert is_there("host")


def test_a_damaged_state_is_said() -> None:
    state.RUN.mkdir()
    (state.RUN / "host.json").write_text("{")
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: not removed: {state.RUN / 'host.json'} is damaged (")
    assert len(result.stderr.splitlines()) == 1


def test_what_is_damaged_does_not_keep_the_others() -> None:
    leave("zebra")
    (state.RUN / "host.json").write_text("{")
    result = run()
    assert (result.exit_code, result.stdout) == (1, "zebra: removed\n")
    assert not is_there("zebra")


def test_what_could_not_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    leave("host")
    leave("lab")
    failures = {"host": ["rule 1 stays", "rule 2 stays"], "lab": []}
    monkeypatch.setattr(install, "clean_up", failures.__getitem__)
    result = run()
    assert (result.exit_code, result.stdout) == (1, "lab: removed\n")
    assert result.stderr == "Error: not removed: rule 1 stays; rule 2 stays\n"


def test_without_the_right_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        raise PermissionError(13, "Permission denied", "/sys/fs/bpf/tidewaiter")

    monkeypatch.setattr(state, "names", names)
    result = run()
    assert result.exit_code == 1
    assert result.stderr == "Error: Permission denied (/sys/fs/bpf/tidewaiter); run it as root\n"
