"""The versions of a file: who, when, why, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewaiter.policy import versions
from tidewaiter.policy.versions import BY_HAND, History, HistoryError, replace_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text("a\n")
    path.chmod(0o640)
    return path


def test_every_change_is_a_version(file: Path) -> None:
    History(file).change("b\n", 1000.0, "anna", "because")
    file.write_text("c\n")
    History(file).change("d\n", 2000.0, "bert", "so")
    found = History(file)
    assert [(one.number, one.who, one.why, one.text) for one in found.versions] == [
        (1, "unknown", "as it was found", "a\n"),
        (2, "anna", "because", "b\n"),
        (3, "unknown", BY_HAND, "c\n"),
        (4, "bert", "so", "d\n"),
    ]
    assert (found.versions[1].time, found.versions[3].time) == (1000.0, 2000.0)
    assert file.read_text() == "d\n"
    assert found.get(-2).number == 3
    assert found.get(2).text == "b\n"
    assert found.diff(found.get(2), found.get(4)).splitlines()[2:] == ["@@ -1 +1 @@", "-b", "+d"]
    with pytest.raises(HistoryError, match="has no version 9"):
        found.get(9)


def test_rights_are_kept(file: Path) -> None:
    History(file).change("b\n", 0.0, "anna", "")
    for path in (file, file.with_name("p.toml.history")):
        assert path.stat().st_mode & 0o777 == 0o640


def test_there_is_a_bound(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "KEPT", 3)
    for number in range(10):
        History(file).change(f"{number}\n", 0.0, "anna", "")
    assert [one.number for one in History(file).versions] == [9, 10, 11]
    monkeypatch.setattr(versions, "MAX_BYTES", 100)
    History(file).change("x" * 99, 0.0, "anna", "")
    assert [one.number for one in History(file).versions] == [12]


def test_a_broken_history_is_said(file: Path) -> None:
    file.with_name("p.toml.history").write_text("{}\n")
    with pytest.raises(HistoryError, match=r"p\.toml\.history:1: this is no version"):
        History(file)


def test_a_link_stays_one(file: Path) -> None:
    link = file.with_name("link.toml")
    link.symlink_to(file)
    replace_text(link, "new\n")
    assert link.is_symlink()
    assert file.read_text() == "new\n"
