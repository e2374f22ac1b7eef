"""host/packages.py: which package a program is of, by dpkg and by rpm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tidewaiter.host import packages
from tidewaiter.host.packages import Packages
from tidewaiter.model.process import Process

SPEC = """\
Name: tide-table
Version: 1
Release: 1
Summary: A package of one program
License: none
BuildArch: noarch

%description
For tests.

%install
install -D -m 755 /dev/null %{buildroot}@PATH@

%files
@PATH@
"""


class Clock:
    """Time that passes when it is told to."""

    now = 0

    def __call__(self) -> int:
        return self.now


def of(found: Packages, path: str | Path) -> str:
    return found.of(Process(1, str(path)))


def test_dpkg(tmp_path: Path) -> None:
    (tmp_path / "curl.list").write_text("/.\n/usr\n/usr/bin/curl\n")
    (tmp_path / "libc6:amd64.list").write_text("/bin/old\n")
    found = Packages(tmp_path, ())
    paths = ("/usr/bin/curl", "/usr/bin/old", "/usr/bin/cur", "")
    assert [of(found, path) for path in paths] == ["curl", "libc6", "", ""]


def test_an_answer_is_kept_until_packages_come_or_go(tmp_path: Path) -> None:
    clock = Clock()
    found = Packages(tmp_path, (), clock)
    assert of(found, "/bin/new") == ""
    (tmp_path / "new.list").write_text("/bin/new\n")
    os.utime(tmp_path, ns=(1, 1))
    assert of(found, "/bin/new") == ""
    clock.now += packages.FRESH
    assert of(found, "/bin/new") == "new"


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "KEPT", 10)
    found = Packages(tmp_path, ())
    for number in range(30):
        of(found, f"/{number}")
    assert list(found._known) == [f"/{number}" for number in range(20, 30)]


def test_where_there_is_no_database_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert of(Packages(tmp_path, (tmp_path / "none",)), "/bin/sh") == ""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A database of rpm with one package, and the program that it owns. Nothing is installed on this machine."""
    assert shutil.which("rpmbuild"), "the package rpm is missing: ./dev setup installs it"
    folder = tmp_path_factory.mktemp("rpm")
    program = folder / "bin" / "tide-table"
    program.parent.mkdir()
    program.touch(mode=0o755)
    (folder / "one.spec").write_text(SPEC.replace("@PATH@", str(program)))
    top = ["--define", f"_topdir {folder}/top", "--define", "debug_package %{nil}"]
    subprocess.run(["rpmbuild", "-bb", *top, folder / "one.spec"], check=True, capture_output=True)
    (made,) = (folder / "top" / "RPMS").rglob("*.rpm")
    place = folder / "database"
    quietly: list[str | Path] = [
        "rpm",
        "--dbpath",
        place,
        "--install",
        "--justdb",
        "--nodeps",
        "--nosignature",
        made,
    ]
    subprocess.run(quietly, check=True, capture_output=True)
    return place, program


def test_rpm(database: tuple[Path, Path], tmp_path: Path) -> None:
    place, program = database
    other = tmp_path / "other"
    other.touch()
    found = Packages(tmp_path / "no-dpkg", (tmp_path / "none", place))
    assert (of(found, program), of(found, other), of(found, "/not/there")) == ("tide-table", "", "")


def test_rpm_is_asked_once(
    database: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, program = database
    clock = Clock()
    found = Packages(tmp_path, (place,), clock)
    calls: list[Any] = []
    run = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    for _ in range(3):
        clock.now += packages.FRESH
        assert of(found, program) == "tide-table"
    assert len(calls) == 1


def test_an_rpm_that_does_not_answer_is_not_waited_for(
    database: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, program = database
    slow = tmp_path / "rpm"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(packages, "_PLACES", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "_PATIENCE", 0.2)
    assert of(Packages(tmp_path, (place,)), program) == ""
