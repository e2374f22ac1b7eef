"""In the lab, what a program does is one connection: the right path, pid, user, arguments and byte totals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.harness import PYTHON, Finished, Guard, Line, endpoint, guard, run
from livelab import AGENT, PATIENCE, Agent, agent_in, new_name
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

HERE = Path(__file__).parent
_CURL = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{size_request} %{size_header} %{size_download}"]
_AGENT = [sys.executable, str(AGENT)]
_INBOUND = [sys.executable, str(HERE / "inbound.py")]
# somebody else, who may read what lies in root's folders: a checkout, or a whole system in one
_READ = "+dac_read_search"
_NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", f"--inh-caps={_READ}"]
_NOBODY += [f"--ambient-caps={_READ}"]
_SSH = [
    "-oBatchMode=yes",
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oConnectTimeout=5",
]
ERRANDS: list[dict[str, Any]] = [
    {"name": "curl4", "argv": [*_CURL, "$LAB_HTTP"]},
    {"name": "curl6", "argv": [*_CURL, "$LAB_HTTP6"]},
    {"name": "nobody4", "argv": [*_NOBODY, *_CURL, "$LAB_HTTP"]},
    {"name": "nobody6", "argv": [*_NOBODY, *_CURL, "$LAB_HTTP6"]},
    {"name": "download", "argv": [*_CURL, "${LAB_HTTP}bytes/3000000"]},
    {"name": "dig4", "argv": ["dig", "+qr", "+tries=1", "@" + plan.DNS.v4, "web.lab"]},
    {"name": "dig6", "argv": ["dig", "+qr", "+tries=1", "@" + plan.DNS.v6, "web.lab", "AAAA"]},
    {"name": "digtcp", "argv": ["dig", "+qr", "+tcp", "+tries=1", "@" + plan.DNS.v4, "web.lab"]},
    {"name": "nc4", "argv": ["nc", "-N", "-w", "5", plan.ECHO.v4, "7"], "stdin": "hello from nc\n"},
    {"name": "nc6", "argv": ["nc", "-N", "-w", "5", plan.ECHO.v6, "7"], "stdin": "hello from nc\n"},
    {"name": "ssh", "argv": ["ssh", "-v", "-p", "443", *_SSH, plan.TLS.v4, "true"]},
]


@pytest.fixture(scope="module")
def errands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, Any]]:
    """What the lab printed about all the errands, and what they themselves said."""
    record = tmp_path_factory.mktemp("errands") / "record"
    command = ["lab", "--json", "--", sys.executable, str(HERE / "errands.py"), str(record)]
    finished = run(*command, stdin=json.dumps(ERRANDS))
    assert finished.status == 0, finished.errors
    return finished, json.loads(record.read_text())


def _only(lines: list[Line], event: str) -> Line:
    found = [line for line in lines if line["event"] == event]
    assert len(found) == 1, f"{len(found)} {event} lines: {found}"
    return found[0]


def _story(finished: Finished, pid: int) -> tuple[Line, Line, Line]:
    """The beginning, the verdict and the end of the one connection of a process."""
    lines = [line for line in finished.events if line.get("pid") == pid]
    beginning, verdict, end = (_only(lines, event) for event in ("connection", "verdict", "end"))
    assert beginning["id"] == verdict["id"] == end["id"]
    for line in (verdict, end):
        same = ("program", "arguments", "user", "direction", "protocol", "local", "remote")
        assert {name: line[name] for name in same} == {name: beginning[name] for name in same}
    return beginning, verdict, end


@pytest.mark.parametrize("name", [errand["name"] for errand in ERRANDS])
def test_who_and_what(errands: tuple[Finished, dict[str, Any]], name: str) -> None:
    finished, record = errands
    mine = record[name]
    argv = mine["argv"][len(_NOBODY) :] if name.startswith("nobody") else mine["argv"]
    beginning, verdict, end = _story(finished, mine["pid"])
    program = shutil.which(argv[0])
    assert program is not None
    assert beginning["program"] == str(Path(program).resolve())
    assert beginning["arguments"] == argv
    assert beginning["user"] == ("nobody" if name.startswith("nobody") else "root")
    assert beginning["direction"] == "out"
    assert beginning["protocol"] == ("udp" if name in ("dig4", "dig6") else "tcp")
    assert (verdict["verdict"], verdict["rule"], verdict["tier"]) == ("accept", "default", "kernel")
    assert 0 < end["duration"] < PATIENCE
    assert end["time"] >= beginning["time"]


@pytest.mark.parametrize(
    ("name", "place", "port"),
    [
        ("curl4", plan.WEB.v4, 80),
        ("curl6", plan.WEB.v6, 80),
        ("dig4", plan.DNS.v4, 53),
        ("dig6", plan.DNS.v6, 53),
        ("nc4", plan.ECHO.v4, 7),
        ("nc6", plan.ECHO.v6, 7),
    ],
)
def test_where(errands: tuple[Finished, dict[str, Any]], name: str, place: str, port: int) -> None:
    finished, record = errands
    beginning, _, _ = _story(finished, record[name]["pid"])
    assert beginning["remote"] == endpoint(place, port)
    client = plan.CLIENT.v6 if ":" in place else plan.CLIENT.v4
    assert re.fullmatch(re.escape(endpoint(client, 0)[:-1]) + r"[1-9]\d+", beginning["local"])


@pytest.mark.parametrize("name", ["curl4", "curl6", "nobody4", "nobody6", "download"])
def test_totals_are_those_that_curl_counts(errands: tuple[Finished, dict[str, Any]], name: str) -> None:
    finished, record = errands
    _, _, end = _story(finished, record[name]["pid"])
    request, header, body = (int(word) for word in record[name]["output"].split())
    assert (end["sent"], end["received"]) == (request, header + body)
    assert body == 3_000_000 or name != "download"


@pytest.mark.parametrize(("name", "framing"), [("dig4", 0), ("dig6", 0), ("digtcp", 2)])
def test_totals_are_those_that_dig_counts(
    errands: tuple[Finished, dict[str, Any]], name: str, framing: int
) -> None:
    finished, record = errands
    _, _, end = _story(finished, record[name]["pid"])
    asked = re.search(r"QUERY SIZE: (\d+)", record[name]["output"])
    heard = re.search(r"MSG SIZE +rcvd: (\d+)", record[name]["output"])
    assert asked is not None
    assert heard is not None
    assert end["sent"] == int(asked[1]) + framing  # RFC 1035 §4.2.2: over TCP its length goes first
    assert end["received"] == int(heard[1]) + framing


@pytest.mark.parametrize("name", ["nc4", "nc6"])
def test_totals_are_what_went_through_nc(errands: tuple[Finished, dict[str, Any]], name: str) -> None:
    finished, record = errands
    _, _, end = _story(finished, record[name]["pid"])
    assert record[name]["output"] == "hello from nc\n"
    assert end["sent"] == end["received"] == len("hello from nc\n")


def test_totals_are_what_ssh_said_to_a_server_that_hangs_up(
    errands: tuple[Finished, dict[str, Any]],
) -> None:
    finished, record = errands
    _, _, end = _story(finished, record["ssh"]["pid"])
    greeting = re.search(r"Local version string (.*?)\r?\n", record["ssh"]["output"])
    assert greeting is not None
    assert end["sent"] == len(greeting[1]) + 2  # RFC 4253 §4.2: its line ends with CR and LF


def test_every_identifier_is_unique_and_nothing_was_lost(errands: tuple[Finished, dict[str, Any]]) -> None:
    finished, _ = errands
    numbers = [line["id"] for line in finished.events if line["event"] == "connection"]
    assert len(numbers) == len(set(numbers)) == len(ERRANDS)
    stats = finished.events[-1]
    assert stats["event"] == "stats"
    assert stats["events_dropped"] == stats["kernel_events_lost"] == 0


# --- Python sockets, and servers in the client: the firewall is `tidewaiter run` on a world ------------------


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture(scope="module")
def guarded(place: World) -> Iterator[Guard]:
    with guard(place, new_name(place)) as one:
        yield one
        one.stop()


@pytest.fixture(scope="module")
def worker(place: World, guarded: Guard) -> Iterator[Agent]:
    assert guarded.process.poll() is None
    with agent_in(place, *_NOBODY) as agent:
        yield agent


def _check(guarded: Guard, end: Line, pid: int, argv: list[str], *, direction: str, remote: str) -> None:
    lines = guarded.about(id=end["id"])
    assert [line["event"] for line in lines] == ["connection", "verdict", "end"]
    for line in lines:
        assert (line["program"], line["pid"], line["user"]) == (PYTHON, pid, "nobody")
        assert line["arguments"] == argv
        assert (line["direction"], line["remote"]) == (direction, remote)


@pytest.mark.parametrize("address", plan.ECHO)
@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_connected_python_sockets(guarded: Guard, worker: Agent, do: str, address: str) -> None:
    made = worker.do(do, (address, 7), say="x" * 1000, times=3)
    assert made.error is None
    assert worker.do("close", of=made.id).error is None
    local = endpoint(plan.CLIENT.v6 if ":" in address else plan.CLIENT.v4, made.port)
    end = guarded.wait_for(event="end", local=local, protocol=do)
    _check(guarded, end, worker.pid, _AGENT, direction="out", remote=endpoint(address, 7))
    assert (end["sent"], end["received"]) == (3000, 3000)


@pytest.mark.parametrize(("first", "second"), [(plan.ECHO.v4, plan.WEB.v4), (plan.ECHO.v6, plan.WEB.v6)])
def test_a_datagram_socket_without_peer_has_a_connection_for_each(
    guarded: Guard, worker: Agent, first: str, second: str
) -> None:
    """portmaster-kext §2.1."""
    made = worker.do("sendto", (first, 7), say="a" * 100)
    again = worker.do("sendto", (first, 7), say="b" * 50, of=made.id)
    other = worker.do("sendto", (second, 7), say="c" * 10, of=made.id)
    assert [one.error for one in (made, again, other)] == [None] * 3
    assert made.port == again.port == other.port
    assert worker.do("close", of=other.id).error is None
    for address, count in ((first, 150), (second, 10)):
        remote = endpoint(address, 7)
        end = guarded.wait_for(event="end", protocol="udp", remote=remote, sent=count)
        assert end["local"].endswith(f":{made.port}")
        _check(guarded, end, worker.pid, _AGENT, direction="out", remote=remote)
        assert end["received"] == count


@pytest.mark.parametrize("address", plan.CLIENT)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("everywhere", [False, True], ids=["one address", "any address"])
def test_inbound_to_a_server_in_the_client(
    place: World, guarded: Guard, kind: str, address: str, everywhere: bool
) -> None:
    own = ("::" if ":" in address else "0.0.0.0") if everywhere else address
    argv = [*_INBOUND, "serve", own, "0", kind]
    server = place.popen([*_NOBODY, *argv], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout as stdout:
        port = int(stdout.readline())
    peer = place.popen_server([*_INBOUND, "ask", address, str(port), kind], stdout=subprocess.PIPE, text=True)
    output, _ = peer.communicate(timeout=PATIENCE)
    assert (peer.returncode, server.wait(PATIENCE)) == (0, 0)
    remote = endpoint(output.split()[0], int(output.split()[1]))
    end = guarded.wait_for(event="end", remote=remote, protocol=kind)
    _check(guarded, end, server.pid, argv, direction="in", remote=remote)
    assert end["local"] == endpoint(address, port)
    assert (end["sent"], end["received"]) == (800, 800)


def test_a_world_without_firewall_prints_nothing() -> None:
    finished = run("lab", "--no-firewall", "--json", "--", "sh", "-c", "curl -s $LAB_HTTP -o /dev/null")
    assert (finished.status, finished.events, finished.output) == (0, [], "")
