"""replay/programs.py: the file that says which program used which port."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.key import Protocol
from tidewaiter.model.process import Process
from tidewaiter.replay import programs
from tidewaiter.replay.capture import CaptureError
from tidewaiter.replay.programs import parse_programs, programs_file, read_programs

CURL = {"program": "/usr/bin/curl", "pid": 12, "user": "anna", "uid": 1000, "arguments": ["curl", "-4"]}


def test_what_a_file_says() -> None:
    found = parse_programs(json.dumps({"53124/tcp": CURL, "53/udp": {"program": "/usr/bin/dig"}}).encode())
    assert found == {
        (Protocol.TCP, 53124): Process(12, "/usr/bin/curl", ("curl", "-4"), uid=1000, user="anna"),
        (Protocol.UDP, 53): Process(0, "/usr/bin/dig"),
    }


def test_the_file_is_next_to_the_capture(tmp_path: Path) -> None:
    path = programs_file(tmp_path / "web.pcap")
    assert path == tmp_path / "web.programs.json"
    assert read_programs(path) == {}
    path.write_text(json.dumps({"1/tcp": CURL}))
    assert list(read_programs(path)) == [(6, 1)]


def test_errors_of_a_file_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "web.programs.json"
    path.write_text("[]")
    with pytest.raises(CaptureError, match=r"web\.programs\.json: write an object"):
        read_programs(path)
    with pytest.raises(CaptureError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_programs(tmp_path)
    monkeypatch.setattr(programs, "MAX_SIZE", 1)
    with pytest.raises(CaptureError, match="more than 1 bytes"):
        read_programs(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"1/tcp": ' + "9" * 5000 + "}", "not JSON"),
        ("[]", "write an object"),
        ('{"80": {}}', '"80" is no local port'),
        ('{"65536/tcp": {}}', "no local port"),
        ('{"-1/tcp": {}}', "no local port"),
        ('{"²/tcp": {}}', "no local port"),
        ('{"80/icmp": {}}', "no local port"),
        ('{"80/tcp": []}', "80/tcp has no program"),
        ('{"80/tcp": {"pid": 1}}', "80/tcp has no program"),
        ('{"80/tcp": {"program": 1}}', "the program of 80/tcp is 1: write text"),
        ('{"80/tcp": {"program": "/x", "pid": true}}', "the pid of 80/tcp is true: write a number"),
        ('{"80/tcp": {"program": "/x", "arguments": "x"}}', "write a list of text"),
        ('{"80/tcp": {"program": "/x", "arguments": [1]}}', r"are \[1\]: write a list of text"),
        ('{"80/tcp": {"program": "/x", "name": 1}}', 'has "name": it may have program, pid'),
    ],
)
def test_errors_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        parse_programs(text.encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CURL, "x"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["80/tcp", "1/udp", "x"]), json_values).map(json.dumps)
    | st.text(max_size=30)
)
def test_hostile_files(text: str) -> None:
    try:
        found = parse_programs(text.encode())
    except CaptureError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(process, Process) for process in found.values())
