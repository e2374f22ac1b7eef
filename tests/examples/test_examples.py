"""The examples do what they say: each is run as a user would, in a lab."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livelab import PATIENCE, eventually
from tidewaiter.host import state
from tidewaiter.lab.world import World

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 80
HOST = "host"

pytestmark = pytest.mark.live


def run(example: str, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    return subprocess.run(
        command, input=answers, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextmanager
def guarding(example: str, *arguments: str) -> Iterator[tuple[World, subprocess.Popen[str]]]:
    """An example that guards a world of ours from outside, in force."""
    if state.load(HOST) is not None:
        pytest.skip("a firewall guards this host: the example would get in its way")
    with World() as world:
        world.also_remove(state.PINS / HOST)
        world.also_remove(state.RUN / f"{HOST}.json")
        place = ("--cgroup", str(world.cgroup), "--netns", str(world.client_namespace))
        command = [sys.executable, str(EXAMPLES / example), *place, *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            links = state.PINS / HOST / "1" / "links"
            eventually((links / "tw_connect6").exists, "the example attaches", PATIENCE)
            try:
                yield world, process
            finally:
                process.kill()


def curl(world: World) -> int:
    return world.popen(["sh", "-c", "curl -s $LAB_HTTP"], stdout=subprocess.DEVNULL).wait(PATIENCE)


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_is_short(example: str) -> None:
    assert len((EXAMPLES / example).read_text().splitlines()) < LONGEST


def test_ask_in_terminal_holds_the_connection_until_it_is_accepted() -> None:
    done = run("ask_in_terminal.py", "sh", "-c", "curl -sS $LAB_HTTP", answers="what?\na\n")
    assert done.returncode == 0, done.stderr
    assert "the lab sees 10.77.0.1 port" in done.stdout
    asked = re.findall(r"curl: tcp 10\.77\.0\.1:\d+ - 10\.77\.0\.10:80", done.stdout)
    assert len(asked) == 2, "a word that is no answer is asked about again"


@pytest.mark.parametrize("answers", ["b\n", ""])
def test_ask_in_terminal_blocks_when_told_to_and_when_nobody_is_there(answers: str) -> None:
    done = run("ask_in_terminal.py", "sh", "-c", "curl -sS $LAB_HTTP", answers=answers)
    assert done.returncode == 7, "curl: Failed to connect to host"
    assert "the lab sees" not in done.stdout


def test_ask_in_terminal_guards_a_namespace_until_it_is_interrupted() -> None:
    with guarding("ask_in_terminal.py") as (world, process):
        assert process.stdin is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert curl(world) == 0
        output, errors = interrupt(process)
        assert output.count("curl: tcp") == 1
        assert errors == ""
        assert state.load(HOST) is None


def test_allow_list_lets_only_the_named_programs_connect() -> None:
    connect = "import socket; socket.create_connection(('10.77.0.10', 80))"
    command = f'curl -sS $LAB_HTTP/bytes/5000; python3 -c "{connect}"'
    done = run("allow_list.py", "--allow", "/usr/bin/curl", "sh", "-c", command)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr
    summary = dict(line.split(": ") for line in done.stdout.lstrip("\0").splitlines())
    carried, refused = re.findall(r"\d+", summary.pop("/usr/bin/curl"))
    assert 5000 < int(carried) < 6000
    assert refused == "0"
    assert list(summary.values()) == ["0 bytes, 1 refused"]


def test_allow_list_guards_a_namespace_until_it_is_interrupted() -> None:
    with guarding("allow_list.py") as (world, process):
        assert curl(world) == 7
        output, errors = interrupt(process)
        assert output == "/usr/bin/curl: 0 bytes, 1 refused\n"
        assert errors == ""


def test_watch_totals_counts_what_each_program_moves() -> None:
    curl = "curl -so /dev/null"
    commands = f"{curl} $LAB_HTTP/bytes/1000000; {curl} $LAB_HTTP6/bytes/500000; dig @10.77.0.13 web.lab"
    done = run("watch_totals.py", "sh", "-c", commands)
    assert done.returncode == 0, done.stderr
    rows = {row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in _rows(done.stdout)}
    still_open, ended, sent, received = rows["/usr/bin/curl"]
    assert (still_open, ended) == (0, 2)
    assert 0 < sent < 1000
    assert 1_500_000 < received < 1_501_000
    assert rows["/usr/bin/dig"][:2] == [0, 1]


def _rows(output: str) -> list[list[str]]:
    """The table's rows: a path and four numbers."""
    return [line.split() for line in output.splitlines() if line.startswith("/")]
