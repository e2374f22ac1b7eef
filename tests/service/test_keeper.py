"""service/keeper.py: what is new is found and told of by threads, and nothing is told behind the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import pytest

from livelab import PATIENCE, eventually
from service.test_world import put, with_etag, written
from tidewaiter.policy.rule import World
from tidewaiter.service import keeper as module
from tidewaiter.service.keeper import Keeper
from tidewaiter.service.world import Sources
from webserver import Web, web_server


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "LOOK", 0.02)


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


class Engine:
    """Takes what is new when it is told, as an engine does."""

    def __init__(self, state: Path | None = None) -> None:
        self.said: list[str] = []
        self.worlds: list[World] = []
        self.keeper = Keeper(state, self.said.append, self.look)

    def look(self) -> None:
        if (world := self.keeper.world()) is not None:
            self.worlds.append(world)

    def lists(self, name: str) -> bool:
        return bool(self.worlds) and self.worlds[-1].lists["ads"].contains_name(name)


@contextmanager
def following(engine: Engine, sources: Sources) -> Iterator[None]:
    engine.worlds.append(engine.keeper.use(sources))
    engine.keeper.start()
    try:
        yield
    finally:
        engine.keeper.stop()


def test_a_file_that_changes_and_a_server_that_answers_are_told_of(tmp_path: Path, web: Web) -> None:
    with_etag(web, "a.example\n", '"1"')
    path = put(tmp_path / "ads.txt", "b.example\n")
    engine = Engine(tmp_path / "state")
    sources = engine.keeper.read(written(tmp_path, f'[list.ads]\npath = "ads.txt"\nurl = "{web.url()}"'))
    assert engine.said == [f"the list of {web.url()} is empty until it has been fetched"]
    with following(engine, sources):
        eventually(lambda: engine.lists("a.example"), "the server's list", PATIENCE)
        put(path, "c.example\n")
        eventually(lambda: engine.lists("c.example"), "the file's list", PATIENCE)
        assert engine.lists("a.example")
        assert not engine.lists("b.example")


def test_a_server_that_does_not_answer_keeps_nobody_from_seeing_a_file(tmp_path: Path, web: Web) -> None:
    asked = Event()

    def wait(_: BaseHTTPRequestHandler) -> None:
        asked.set()
        web.over.wait(PATIENCE)

    web.answers["/list"] = wait
    path = put(tmp_path / "ads.txt", "b.example\n")
    engine = Engine()
    sources = engine.keeper.read(written(tmp_path, f'[list.ads]\npath = "ads.txt"\nurl = "{web.url()}"'))
    with following(engine, sources):
        assert asked.wait(PATIENCE)
        put(path, "c.example\n")
        eventually(lambda: engine.lists("c.example"), "the file's list", PATIENCE)
        said = list(engine.said)
    web.over.set()
    assert engine.said == said, "it is stopped: what the server says then is nobody's business"


def test_the_sources_of_another_policy_are_followed_from_their_use_on(tmp_path: Path) -> None:
    engine = Engine()
    put(tmp_path / "ads.txt", "a.example\n")
    first = engine.keeper.read(written(tmp_path, '[list.ads]\npath = "ads.txt"'))
    with following(engine, first):
        put(tmp_path / "other.txt", "b.example\n")
        second = engine.keeper.read(written(tmp_path, '[list.ads]\npath = "other.txt"'))
        engine.worlds.append(engine.keeper.use(second))
        assert engine.lists("b.example")
        put(tmp_path / "other.txt", "c.example\n")
        eventually(lambda: engine.lists("c.example"), "the other file's list", PATIENCE)
        assert not engine.lists("a.example")


def test_a_failure_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    path = put(tmp_path / "ads.txt", "a.example\n")
    sources = engine.keeper.read(written(tmp_path, '[list.ads]\npath = "ads.txt"'))
    look, failed = Sources.look_at_files, Event()

    def fail_once(self: Sources) -> None:
        if failed.is_set():
            look(self)
        failed.set()
        raise MemoryError

    monkeypatch.setattr(Sources, "look_at_files", fail_once)
    with caplog.at_level(logging.ERROR), following(engine, sources):
        assert failed.wait(PATIENCE)
        monkeypatch.setattr(Sources, "look_at_files", look)
        put(path, "b.example\n")
        eventually(lambda: engine.lists("b.example"), "it goes on", PATIENCE)
    assert "bringing lists up to date failed" in caplog.text


def test_what_is_kept_of_lists_that_are_no_more_goes_at_the_start(tmp_path: Path) -> None:
    put(tmp_path / "ads.txt", "a.example\n")
    for form in ("hosts", "domains"):
        put(tmp_path / "ads.txt", "0.0.0.0 a.example\n" if form == "hosts" else "a.example\n")
        engine = Engine(tmp_path / "state")
        sources = engine.keeper.read(written(tmp_path, f'[list.ads]\npath = "ads.txt"\nformat = "{form}"'))
        with following(engine, sources):
            assert len(list((tmp_path / "state/lists").iterdir())) == 1
