"""host/state.py: the small file that others find a firewall by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.host import state
from tidewaiter.host.hold import HoldRules, Method
from tidewaiter.host.processes import read_process
from tidewaiter.host.state import State, StateError

SAMPLE = State(
    name="host",
    pid=1,
    started=0,
    serial=3,
    build="0123456789abcdef",
    mode="enforce",
    fail_open=False,
    cgroup="/sys/fs/cgroup",
    namespaces=("/proc/self/ns/net", "/run/netns/x"),
    rules=("first", "default"),
)
RULES = HoldRules(Path("/run/netns/x"), Path("/out"), Path("/in"), 7300, fail_open=True)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    monkeypatch.setattr(state, "PINS", tmp_path / "pins")
    return tmp_path


def test_it_comes_back_as_it_was() -> None:
    assert state.load("host") is None
    SAMPLE.save()
    assert state.load("host") == SAMPLE
    held = SAMPLE.with_hold(RULES, Method.IPTABLES_LEGACY)
    held.save()
    assert state.load("host") == held
    held.forget()
    assert state.load("host") is None
    held.forget()


def test_hold_rules_come_back_as_they_were() -> None:
    other = replace(RULES, queue=7301, fail_open=False)
    saved = SAMPLE.with_hold(RULES, Method.IPTABLES_NFT).with_hold(other, Method.NFT_QUEUE)
    saved.save()
    loaded = state.load("host")
    assert loaded is not None
    assert loaded.hold_rules() == [(RULES, Method.IPTABLES_NFT), (other, Method.NFT_QUEUE)]
    assert SAMPLE.hold_rules() == []


def test_a_crash_while_writing_leaves_the_old_file(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SAMPLE.save()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        replace(SAMPLE, serial=4).save()
    monkeypatch.undo()
    monkeypatch.setattr(state, "RUN", places / "run")
    assert state.load("host") == SAMPLE


def test_pins_of_two_generations_lie_side_by_side(places: Path) -> None:
    assert SAMPLE.pins == places / "pins" / "host" / "3"
    assert replace(SAMPLE, serial=4).pins == places / "pins" / "host" / "4"


@pytest.mark.parametrize("name", ["host", "a", "lab-1_x", "A" * 63, "0"])
def test_names_that_can_be(name: str) -> None:
    assert state.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../etc/passwd", "a.json", "-a", "_a", "a b", "A" * 64, "ä", "a\n", "\0"]
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(StateError, match="cannot name a firewall: letters, digits, - and _, at most 63"):
        state.check_name(name)
    with pytest.raises(StateError, match="cannot name a firewall"):
        state.load(name)


DAMAGED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'{"name": "host"}',
    b"\xff\xfe",
    json.dumps(asdict(SAMPLE) | {"colour": "red"}).encode(),
    json.dumps({k: v for k, v in asdict(SAMPLE).items() if k != "pid"}).encode(),
    b"[" * 100000,
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named_with_what_to_do(places: Path, content: bytes) -> None:
    path = places / "run" / "host.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"host\.json is damaged .* remove it and run `tidewaiter cleanup`"):
        state.load("host")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*asdict(SAMPLE)]), JSON) | JSON | st.none())
@settings(max_examples=200 * FUZZ)
def test_a_file_of_any_content_is_loaded_or_refused(content: object) -> None:
    state.RUN.mkdir(exist_ok=True)
    path = state.RUN / "host.json"
    values = asdict(SAMPLE) | content if isinstance(content, dict) else content
    path.write_text(json.dumps(values))
    try:
        found = state.load("host")
    except StateError as error:
        assert str(error).startswith(f"{path} is damaged")
        return
    assert found is not None
    assert found.hold_rules() is not None
    assert found.alive in (True, False)
    assert found.same_as(found)


def test_every_instance_is_found_by_its_file_or_its_pins(places: Path) -> None:
    assert state.names() == []
    SAMPLE.save()
    (places / "pins" / "lab-2" / "1").mkdir(parents=True)
    (places / "pins" / "host").mkdir()
    (places / "run" / "other.part").touch()
    assert state.names() == ["host", "lab-2"]


def ours() -> State:
    us = read_process(os.getpid())
    assert us is not None
    return replace(SAMPLE, pid=us.pid, started=us.started)


def test_who_runs_is_known_by_pid_and_start() -> None:
    assert ours().alive
    assert not replace(ours(), started=ours().started + 10_000_000).alive  # its pid was used again
    assert not replace(ours(), pid=0x7FFFFFF).alive


def test_a_process_that_has_ended_is_not_alive_even_if_nobody_waited() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = read_process(child.pid)
        assert process is not None
        running = replace(SAMPLE, pid=child.pid, started=process.started)
        assert running.alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not running.alive
    assert not running.alive


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"pid": 2, "started": 5, "serial": 9, "rules": ("other",)}, True),
        ({"build": "another"}, False),
        ({"mode": "observe"}, False),
        ({"fail_open": True}, False),
        ({"cgroup": "/sys/fs/cgroup/x"}, False),
        ({"namespaces": ("/proc/self/ns/net",)}, False),
        ({"name": "other"}, False),
    ],
)
def test_only_the_same_settings_are_taken_over(change: dict[str, object], same: bool) -> None:
    assert replace(SAMPLE, **change).same_as(SAMPLE) is same  # type: ignore[arg-type]
