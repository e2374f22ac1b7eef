"""The lab: the command's own status and output, everything promised in its environment, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acceptance.harness import COMMAND, rule, run, split, until, write
from livelab import PATIENCE
from tidewaiter.host import cgroup, state

pytestmark = pytest.mark.live

_BOTH = pytest.mark.parametrize("options", [[], ["--no-firewall"]], ids=["guarded", "without firewall"])
_LOOK = """
import json, os, sys
groups = [line.split(":", 2)[2] for line in open("/proc/self/cgroup").read().split() if line.startswith("0::")]
found = {name: value for name, value in os.environ.items() if name.startswith("LAB_")}
found |= {"cgroup": groups[0], "pid": os.getpid(), "namespace": os.stat("/proc/self/ns/net").st_ino}
print(json.dumps(found), flush=True)
sys.stdin.read()
"""


def _command(*options: str) -> list[str]:
    return [*COMMAND, "lab", *options, "--", sys.executable, "-c", _LOOK]


def _places(found: dict[str, Any]) -> list[Path]:
    """Everything that a lab makes on this machine, from what its command sees."""
    group = cgroup.root() / found["cgroup"].lstrip("/")
    return [
        group,
        group.with_name(f"{group.name}-server"),
        Path(found["LAB_CLIENT_NS"]),
        Path(found["LAB_SERVER_NS"]),
        Path(f"/proc/{found['pid']}"),
        state.PINS / group.name,
        state.RUN / f"{group.name}.json",
    ]


@_BOTH
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)],
)
def test_the_exit_status_is_the_commands(options: list[str], script: str, status: int) -> None:
    assert run("lab", *options, "--", "sh", "-c", script).status == status


@_BOTH
def test_a_command_that_is_not_there(options: list[str]) -> None:
    assert run("lab", *options, "--", "/no/such/program").status == 127


@_BOTH
def test_output_and_input_are_the_commands(options: list[str]) -> None:
    """What we print goes to standard error."""
    data = bytes(range(256)) * 1000
    script = "cat; curl -s -o /dev/null $LAB_HTTP; echo to stderr >&2; printf 'no end of line'"
    done = subprocess.run(
        [*COMMAND, "lab", *options, "--", "sh", "-c", script],
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == data + b"no end of line"
    assert b"to stderr\n" in done.stderr
    assert (b"curl" in done.stderr) == (not options)


def test_with_json_the_output_is_between_our_lines() -> None:
    script = "for i in 1 2 3; do echo line $i; curl -s -o /dev/null $LAB_HTTP; done; printf end"
    finished = run("lab", "--json", "--", "sh", "-c", script)
    assert finished.status == 0
    assert finished.output.split() == ["line", "1", "line", "2", "line", "3", "end"]
    kinds = [line["event"] for line in finished.events]
    assert kinds.count("connection") == kinds.count("verdict") == kinds.count("end") == 3
    assert kinds[-1] == "stats"


def test_a_policy_is_in_force(tmp_path: Path) -> None:
    policy = write(tmp_path / "policy.toml", rule("no web", "block", program="/usr/bin/curl", port="80"))
    finished = run("lab", "--policy", policy, "--json", "--", "sh", "-c", "curl -s $LAB_HTTP")
    assert finished.status == 7  # curl(1): failed to connect
    verdicts = [line for line in finished.events if line["event"] == "verdict"]
    assert [(line["verdict"], line["rule"], line["tier"]) for line in verdicts] == [
        ("block", "no web", "kernel")
    ]
    free = run("lab", "--policy", policy, "--no-firewall", "--", "sh", "-c", "curl -s -o /dev/null $LAB_HTTP")
    assert free.status == 0


_SERVERS = r"""
import json, os, socket, subprocess, sys
def ends(name):
    address, _, port = os.environ[name].rpartition(":")
    return address.strip("[]"), int(port)
for suffix in ("", "6"):
    for name in ("LAB_HTTP", "LAB_TLS"):
        subprocess.run(["curl", "-sSf", "-o", "/dev/null", os.environ[name + suffix]], check=True)
    address, port = ends("LAB_DNS" + suffix)
    for more in ("+notcp", "+tcp"):
        argv = ["dig", "+short", "+tries=1", more, "-p", str(port), "@" + address, "web.lab"]
        assert subprocess.run(argv, capture_output=True, check=True).stdout.count(b".") == 3
    made = socket.create_connection(ends("LAB_TCP_ECHO" + suffix), 5)
    made.sendall(b"tcp")
    assert made.recv(10) == b"tcp"
    made = socket.socket(socket.AF_INET6 if suffix else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(5)
    made.sendto(b"udp", ends("LAB_UDP_ECHO" + suffix))
    assert made.recv(10) == b"udp"
assert len(socket.getaddrinfo("web.lab", 80, type=socket.SOCK_STREAM)) == 2
"""


@_BOTH
def test_every_server_answers(options: list[str]) -> None:
    finished = run("lab", *options, "--", sys.executable, "-c", _SERVERS)
    assert finished.status == 0, finished.errors


@_BOTH
def test_what_the_command_finds(options: list[str]) -> None:
    finished = run("lab", *options, "--", sys.executable, "-c", _LOOK)
    found = json.loads(finished.output)
    for name, scheme in (("LAB_HTTP", "http"), ("LAB_TLS", "https")):
        assert found[name].startswith(f"{scheme}://10.")
        assert found[f"{name}6"].startswith(f"{scheme}://[fd")
    for name in ("LAB_DNS", "LAB_TCP_ECHO", "LAB_UDP_ECHO"):
        assert "." in split(found[name])[0]
        assert ":" in split(found[f"{name}6"])[0]
        assert split(found[name])[1] == split(found[f"{name}6"])[1] > 0
    assert [path for path in _places(found) if path.exists()] == []


@_BOTH
def test_the_namespaces_can_be_looked_into(options: list[str]) -> None:
    process = subprocess.Popen(_command(*options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    client, server = Path(found["LAB_CLIENT_NS"]), Path(found["LAB_SERVER_NS"])
    assert client.stat().st_ino == found["namespace"]
    assert server.stat().st_ino not in (found["namespace"], Path("/proc/self/ns/net").stat().st_ino)
    attached = subprocess.run(
        ["bpftool", "cgroup", "show", _places(found)[0]], capture_output=True, text=True, check=True
    ).stdout
    assert ("connect4" in attached) == (not options)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [path for path in _places(found) if path.exists()] == []


@_BOTH
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_killed_it_leaves_nothing(options: list[str], number: signal.Signals) -> None:
    process = subprocess.Popen(
        _command(*options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        found = json.loads(process.stdout.readline())
        places = _places(found)
        assert all(path.exists() for path in (places if not options else places[:5]))
        process.send_signal(number)
        assert process.wait(PATIENCE) != 0
        until(lambda: not any(path.exists() for path in places), "everything is gone")


def test_killed_while_it_is_being_made() -> None:
    """At any moment: what was made so far goes too."""
    before = _here()
    for wait in (0.1, 0.25, 0.4, 0.6, 0.8):
        process = subprocess.Popen(
            [*COMMAND, "lab", "--", "sleep", "60"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(PATIENCE)
    until(lambda: not _mine(_here() - before), "everything is gone")


def _here() -> set[Path]:
    folders = (cgroup.root(), state.PINS, state.RUN)
    return {path for folder in folders if folder.is_dir() for path in folder.glob("tidewaiter-lab-*")}


def _mine(found: set[Path]) -> set[Path]:
    """Without those of another test's lab that lives: somebody is in its control group."""
    return {path for path in found if path.exists() and not _busy("-".join(path.stem.split("-")[:3]))}


def _busy(lab: str) -> bool:
    try:
        return (cgroup.root() / f"{lab}-server" / "cgroup.procs").read_text() != ""
    except OSError:
        return False


def test_the_machine_itself_is_not_touched() -> None:
    """The lab's command cannot be seen from here, and our own rules are what they were."""
    rules = ["iptables-save"]
    before = subprocess.run(rules, capture_output=True, text=True, check=True).stdout
    process = subprocess.Popen(_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    during = subprocess.run(rules, capture_output=True, text=True, check=True).stdout
    assert [line for line in during.splitlines() if "NFQUEUE" in line or "bpf" in line] == [
        line for line in before.splitlines() if "NFQUEUE" in line or "bpf" in line
    ]
    assert found["namespace"] != os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
