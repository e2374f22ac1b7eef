"""host/endings.py: the end of processes, by their descriptors."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from livelab import PATIENCE, eventually
from tidewaiter.host import endings
from tidewaiter.host.endings import Endings
from tidewaiter.host.processes import read_process
from tidewaiter.model.process import Process


class Child:
    """A process that ends when it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        found = read_process(self._process.pid)
        assert found is not None
        self.process = found

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made = [Child(), Child()]
    yield made
    for child in made:
        child.end()


def told_by(found: Endings[str]) -> list[str]:
    """The first that it tells."""
    told: list[str] = []

    def some() -> bool:
        told.extend(found.over())
        return bool(told)

    eventually(some, "its end", PATIENCE)
    return told


def test_each_end_is_told_once(children: list[Child]) -> None:
    one, other = children
    found: Endings[str] = Endings()
    assert found.over() == []
    assert found.watch("a", one.process)
    assert found.watch("b", other.process)
    assert found.watch("c", one.process)
    assert (len(found), found.over()) == (2, [])
    one.end()
    told = told_by(found)
    assert (told, found.over(), len(found)) == (["a", "c"], [], 1)
    found.close()
    assert len(found) == 0


def test_what_is_not_kept_is_not_told(children: list[Child]) -> None:
    one, other = children
    found: Endings[str] = Endings()
    for key, child in (("a", one), ("b", one), ("c", other)):
        assert found.watch(key, child.process)
    found.keep(["b"])
    assert len(found) == 1
    one.end()
    other.end()
    told = told_by(found)
    assert told == ["b"]


def test_one_that_has_ended_or_is_another_by_now(children: list[Child]) -> None:
    found: Endings[str] = Endings()
    living = children[0].process
    assert not found.watch("a", replace(living, started=living.started - 10**9))
    children[0].end()
    assert not found.watch("a", living)
    assert not found.watch("a", Process(2**22 - 1))
    assert len(found) == 0


def test_there_is_a_bound(children: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "ROOM", 1)
    found: Endings[str] = Endings()
    assert found.watch("a", children[0].process)
    assert found.watch("b", children[0].process)
    assert not found.watch("c", children[1].process)
    found.close()
