"""host/cgroup.py on the live kernel, with control groups of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidewaiter.host import cgroup

pytestmark = pytest.mark.live


@pytest.fixture
def group() -> Iterator[Path]:
    path = cgroup.create(f"tidewaiter-test-{secrets.token_hex(4)}")
    yield path
    if path.exists():
        cgroup.remove(path)


def start(group: Path, script: str) -> subprocess.Popen[str]:
    """A shell in the group that has printed a line when this returns."""
    script = f'echo 0 > "$1" && {script}'
    shell = subprocess.Popen(
        ["sh", "-c", script, "sh", group / "cgroup.procs"], stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    with shell.stdout as output:
        assert output.readline() == "here\n"
    return shell


def test_the_root_holds_every_process_group() -> None:
    assert (cgroup.root() / "cgroup.procs").is_file()
    assert (cgroup.root() / "cgroup.controllers").is_file()


def test_the_number_leads_to_the_path_and_back(group: Path) -> None:
    number = cgroup.id_of(group)
    assert cgroup.path_of(number) == group
    cgroup.remove(group)
    assert cgroup.path_of(number) is None
    with pytest.raises(FileNotFoundError):
        cgroup.id_of(group)


def test_a_number_that_never_was() -> None:
    assert cgroup.path_of(0x7FFF_FFFF_FFFF) is None


def test_the_group_of_a_process(group: Path) -> None:
    shell = start(group, "echo here; exec sleep 100")
    assert cgroup.of_process(shell.pid) == group
    assert cgroup.pids(group) == [shell.pid]
    assert cgroup.of_process(os.getpid()) != group
    cgroup.kill(group)
    assert shell.wait() == -9
    with pytest.raises(FileNotFoundError):
        cgroup.of_process(shell.pid)


def test_an_existing_group_is_not_made_again(group: Path) -> None:
    with pytest.raises(FileExistsError):
        cgroup.create(group.name)


def test_removes_everything_below_even_what_will_not_end(group: Path) -> None:
    inner = group / "a" / "b"
    inner.mkdir(parents=True)
    stubborn = start(inner, "trap '' TERM INT HUP; echo here; while :; do sleep 0.01; done")
    forking = start(group, "echo here; while :; do (sleep 100 &) ; done")
    cgroup.remove(group)
    assert not group.exists()
    assert (stubborn.wait(), forking.wait()) == (-9, -9)


def test_a_process_that_moves_in_late_is_killed_too(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[subprocess.Popen[str]] = []
    kill = cgroup.kill

    def kill_and_move_in(path: Path) -> None:
        kill(path)
        if not late:
            late.append(start(group, "echo here; exec sleep 100"))

    monkeypatch.setattr(cgroup, "kill", kill_and_move_in)
    cgroup.remove(group)
    assert [process.wait() for process in late] == [-9]


def test_what_does_not_end_in_time_is_named(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = start(group, "echo here; exec sleep 100")
    with monkeypatch.context() as patched, pytest.raises(TimeoutError, match=rf"do not end: \[{shell.pid}\]"):
        patched.setattr(cgroup, "kill", lambda path: None)
        cgroup.remove(group, timeout=0)
    cgroup.remove(group)
    assert shell.wait() == -9


def test_what_is_not_there_is_said() -> None:
    nowhere = cgroup.root() / "tidewaiter-test-never-made"
    for function in (cgroup.remove, cgroup.kill, cgroup.pids, cgroup.id_of):
        with pytest.raises(FileNotFoundError):
            function(nowhere)
