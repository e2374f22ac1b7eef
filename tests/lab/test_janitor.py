"""lab/janitor.py: what it hears, what it removes, and that it does so whatever ends its owner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidewaiter.host import state
from tidewaiter.lab import janitor
from tidewaiter.lab.janitor import LabError

OWNER = """
import os, signal, sys
from pathlib import Path
from tidewaiter.lab.janitor import Janitor
janitor = Janitor()
janitor.will_remove("tree", Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def line(kind: str, path: str) -> bytes:
    return json.dumps([kind, path]).encode() + b"\n"


def test_hears_until_the_end_is_said_or_the_pipe_ends() -> None:
    said = [line("tree", "/a b"), line("cgroup", "/c"), line("tree", "/d\n")]
    expected = {"tree": [Path("/a b"), Path("/d\n")], "cgroup": [Path("/c")]}
    assert janitor.listen(said) == expected
    assert janitor.listen([*said, line("end", "."), line("tree", "/never")]) == expected


def test_removes_trees_and_passes_over_what_was_never_made(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").touch()
    file = tmp_path / "file"
    file.touch()
    nowhere = Path("/nowhere/at/all")
    registered = {
        "tree": [nowhere, tree],
        "file": [nowhere, file],
        "cgroup": [nowhere],
        "namespace": [Path("/run/netns/tw-never")],
    }
    assert janitor.remove(registered) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("others", [False, True])
def test_the_last_one_takes_the_folder_of_pins_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    pins = tmp_path / "pins"
    monkeypatch.setattr(state, "PINS", pins)
    (pins / "mine").mkdir(parents=True)
    if others:
        (pins / "another").mkdir()
    assert janitor.remove({"tree": [pins / "mine"]}) == []
    assert pins.exists() is others
    assert tmp_path.exists()


def test_one_failure_is_said_and_stops_nothing(tmp_path: Path) -> None:
    stubborn, tree = tmp_path / "file", tmp_path / "tree"
    stubborn.touch()
    tree.mkdir()
    (failure,) = janitor.remove({"tree": [stubborn, tree]})
    assert f"the tree {stubborn} was not removed" in failure
    assert not tree.exists()


def test_the_owner_has_it_done(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    worker = janitor.Janitor()
    worker.will_remove("tree", tree)
    tree.mkdir()
    worker.finish()
    assert not tree.exists()


def test_the_owner_learns_of_a_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stubborn = tmp_path / "file"
    stubborn.touch()
    worker = janitor.Janitor()
    worker.will_remove("tree", stubborn)
    with pytest.raises(LabError, match="not removed completely"):
        worker.finish()
    assert f"the tree {stubborn} was not removed" in capfd.readouterr().err


def test_a_janitor_that_does_not_start_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(janitor, "__name__", "tidewaiter.lab.nowhere")
    with pytest.raises(LabError, match="janitor did not start"):
        janitor.Janitor()
    assert "No module named tidewaiter.lab.nowhere" in capfd.readouterr().err


def test_a_killed_owner_is_enough(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    # The janitor shares the owner's standard error: its end is the end of both.
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, tree], stderr=subprocess.PIPE, text=True, timeout=10, check=False
    )
    assert (owner.returncode, owner.stderr) == (-9, "")
    assert not tree.exists()
