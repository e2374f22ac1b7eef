"""What rules may ask about a program, on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidewaiter.host import lookup
from tidewaiter.host.lookup import MachineLookup
from tidewaiter.host.packages import Packages
from tidewaiter.host.processes import read_process
from tidewaiter.model.process import Process


def test_this_process() -> None:
    process = read_process(os.getpid())
    assert process is not None
    found = MachineLookup()
    own = Path("/proc/self/exe").readlink()
    assert found.checksum(process, "sha256") == hashlib.sha256(own.read_bytes()).hexdigest()
    assert found.checksum(process, "md5") == hashlib.md5(own.read_bytes()).hexdigest()
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"TIDE": "low", "LANG": "C"}
    )
    try:
        of_child = read_process(child.pid)
        assert of_child is not None
        assert found.ancestors(of_child)[0] == str(own)
    finally:
        child.communicate(b"\n")
    assert found.environment(of_child) == ()


def test_the_environment() -> None:
    process = Process(os.getpid())
    names = {one.partition("=")[0] for one in MachineLookup().environment(process)}
    assert "PATH" in names


def test_what_is_gone_is_not_known() -> None:
    gone, found = Process(2**22 - 1, "/not/there", parents=(2**22 - 1,)), MachineLookup()
    assert (found.checksum(gone, "sha256"), found.ancestors(gone), found.environment(gone)) == ("", (), ())


def test_a_program_that_has_changed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tool"
    said: list[str] = []
    found = MachineLookup(said.append)
    path.write_bytes(b"one")
    first = found.checksum(Process(2**22 - 1, str(path)), "sha256")
    assert found.checksum(Process(2**22 - 1, str(path)), "sha256") == first
    assert said == []
    replaced = tmp_path / "new"
    replaced.write_bytes(b"two")
    replaced.rename(path)
    second = found.checksum(Process(2**22 - 1, str(path)), "sha256")
    assert said == [f"{path} has changed: its SHA-256 was {first} and is {second}"]
    assert found.checksum(Process(2**22 - 1, str(path), inode=path.stat().st_ino + 1), "sha256") == ""


def test_packages(tmp_path: Path) -> None:
    (tmp_path / "curl.list").write_text("/usr/bin/curl\n")
    found = MachineLookup(packages=Packages(tmp_path, ()))
    assert found.package(Process(1, "/usr/bin/curl")) == "curl"


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "KEPT", 10)
    found = MachineLookup()
    for number in range(30):
        (tmp_path / f"{number}").write_text(f"{number}")
        found.checksum(Process(2**22 - 1, str(tmp_path / f"{number}")), "sha256")
    assert list(found._of_path) == [str(tmp_path / f"{number}") for number in range(20, 30)]
    assert len(found._digests) == 10
