"""lab/world.py on the live kernel: what is in a world, and that nothing of it stays."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from tidewaiter.host import cgroup, namespace
from tidewaiter.kernel import bpffs
from tidewaiter.kernel.bpffs import BPFFS
from tidewaiter.lab import plan
from tidewaiter.lab import world as world_module
from tidewaiter.lab.janitor import LabError
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

ADDRESSES = [address for place in plan.SERVERS for address in place]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


def run(world: World, *argv: str, timeout: float = 10) -> str:
    """The output of a command that succeeds in the client."""
    command = world.popen(argv, stdout=subprocess.PIPE, text=True)
    output, _ = command.communicate(timeout=timeout)
    assert command.returncode == 0
    return str(output)


def left_of(name: str) -> list[Path]:
    """What there still is of the world with this name."""
    mark = name.rpartition("-")[2]
    folders = [cgroup.root(), namespace.NAMED, Path(tempfile.gettempdir()), BPFFS]
    return [entry for folder in folders for entry in folder.iterdir() if mark in entry.name]


@pytest.mark.parametrize("variable", ["LAB_HTTP", "LAB_HTTP6", "LAB_TLS", "LAB_TLS6"])
def test_curl_is_served_over_both_families_with_and_without_tls(world: World, variable: str) -> None:
    seen = run(world, "curl", "-sS", "--cacert", world.environment["LAB_CA"], world.environment[variable])
    client = plan.CLIENT.v6 if variable.endswith("6") else plan.CLIENT.v4
    assert seen.startswith(f"the lab sees {client} port ")


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_curl_finds_servers_by_name_and_trusts_them_untold(world: World, family: str) -> None:
    output = run(world, "curl", "-sS", family, "https://tls.lab/bytes/3", "http://web.lab/bytes/2")
    assert output == "\0" * 5


def test_programs_resolve_the_labs_names_and_no_others(world: World) -> None:
    script = "import socket; print(*sorted({a[4][0] for a in socket.getaddrinfo('all.lab', 7)}))"
    assert run(world, sys.executable, "-c", script).split() == sorted(ADDRESSES)
    command = world.popen(["getent", "hosts", "nowhere.lab"], stdout=subprocess.DEVNULL)
    assert command.wait(timeout=10) == 2


def test_dig_is_answered(world: World) -> None:
    assert run(world, "dig", "+short", "web.lab", "AAAA") == f"{plan.WEB.v6}\n"
    assert run(world, "dig", "+short", "+tcp", f"@{plan.WEB.v6}", "web.lab") == f"{plan.WEB.v4}\n"


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_answers_dns_over_udp_and_tcp(world: World, address: str) -> None:
    def ask() -> set[dns.rcode.Rcode]:
        query = dns.message.make_query("echo.lab", "A")
        return {
            dns.query.udp(query, address, timeout=5).rcode(),
            dns.query.tcp(query, address, timeout=5).rcode(),
        }

    assert world.in_client(ask) == {dns.rcode.NOERROR}


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_echoes_over_tcp_and_udp(world: World, address: str) -> None:
    def echo() -> list[bytes]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        echoes = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as client:
                client.settimeout(5)
                client.connect((address, plan.Port.ECHO))  # only an answer from this address arrives
                client.sendall(b"there and back")
                echoes.append(client.recv(100))
        return echoes

    assert world.in_client(echo) == [b"there and back"] * 2


def test_a_server_in_the_client_is_reached_from_the_internet(world: World) -> None:
    def connect() -> str:
        with socket.create_connection((plan.CLIENT.v6, 8080), timeout=5) as peer:
            return str(peer.getsockname()[0])

    with world.in_client(lambda: socket.create_server((plan.CLIENT.v6, 8080), family=socket.AF_INET6)):
        assert world.in_server(connect) in {place.v6 for place in plan.SERVERS}


def test_only_the_plans_addresses_answer(world: World) -> None:
    def connect() -> None:
        with pytest.raises(TimeoutError):
            socket.create_connection(("192.0.2.1", 80), timeout=0.2)

    world.in_client(connect)  # there is a way to it, and nobody at its end


def test_a_command_is_where_it_belongs(world: World) -> None:
    command = world.popen(["sleep", "100"])
    server = world.popen_server(["sleep", "100"])
    try:
        # The shell that leads to the command is in the namespace already, and then joins the group.
        where = run(world, "sh", "-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net")
        assert f"0::/{world.name}\n" in where
        assert f"net:[{world.client_namespace.stat().st_ino}]" in where
        for process, path in ((command, world.client_namespace), (server, world.server_namespace)):
            assert Path(f"/proc/{process.pid}/ns/net").stat().st_ino == path.stat().st_ino
        assert cgroup.of_process(server.pid) != world.cgroup
    finally:
        for process in (command, server):
            process.kill()
            process.wait()


def test_a_command_finds_its_environment_and_the_kernels_files(world: World) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    options = {"env": {"MINE": "1", "LAB_HTTP": "stale"}}
    command = world.popen([sys.executable, "-c", script], stdout=subprocess.PIPE, **options)
    found = json.loads(command.communicate()[0])
    assert found.items() >= (world.environment | {"MINE": "1"}).items()
    assert "HOME" not in found
    visible = run(world, "stat", "-c", "%i", world.cgroup.as_posix(), BPFFS.as_posix())
    assert visible.split() == [str(cgroup.id_of(world.cgroup)), str(BPFFS.stat().st_ino)]


def test_a_missing_command_ends_as_in_a_shell(world: World) -> None:
    assert world.popen(["/no/such"], stderr=subprocess.DEVNULL).wait() == 127


def test_the_machines_own_files_are_as_they_were(world: World) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    assert run(world, "cat", "/etc/resolv.conf") == f"nameserver {plan.DNS.v4}\nnameserver {plan.DNS.v6}\n"
    assert Path("/etc/resolv.conf").read_bytes() == before


def test_worlds_do_not_see_each_other(world: World) -> None:
    with World() as other:
        cookies = {
            namespace.cookie(path)
            for each in (world, other)
            for path in (each.client_namespace, each.server_namespace)
        }
        assert len(cookies) == 4
        assert run(other, "curl", "-sS", "http://web.lab/bytes/1") == "\0"
    assert run(world, "curl", "-sS", "http://web.lab/bytes/1") == "\0"


def test_nothing_is_left_after_a_normal_end() -> None:
    bpffs.ensure()
    with World() as world:
        pins = BPFFS / world.name / "deeper"
        world.also_remove(pins.parent)
        pins.mkdir(parents=True)
        state = Path("/run/tidewaiter") / world.name
        world.also_remove(state)
        state.parent.mkdir(exist_ok=True)
        state.touch()
        stays = world.popen(["sh", "-c", "trap '' TERM HUP INT; sleep 100; sleep 100"])
        server = world.popen_server(["sleep", "100"])
        assert len(left_of(world.name)) == 6
    assert (stays.returncode, server.returncode) == (-9, -9)
    assert left_of(world.name) == []
    assert not state.exists()


def test_nothing_is_left_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), World() as world:
        raise ZeroDivisionError
    assert left_of(world.name) == []


def test_nothing_is_left_when_the_world_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(world_module, "_cable", lambda server: (["link set no-such-link up"], []))
    with pytest.raises(LabError, match=r"network could not be made: .*no-such-link"), world:
        pass
    assert left_of(world.name) == []


def test_servers_that_do_not_start_are_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World()
    client, server = world_module._cable(world.server_namespace.name)
    monkeypatch.setattr(world_module, "_cable", lambda _: (client, server[:3]))
    with pytest.raises(LabError, match="servers ended with status 1"), world:
        pass
    assert "Cannot assign requested address" in capfd.readouterr().err
    assert left_of(world.name) == []


def test_only_our_own_places_may_be_removed_besides(world: World) -> None:
    for path in ("/etc", "/sys/fs/bpf", "/sys/fs/bpf/../cgroup", "/run/netns/x", "sys/fs/bpf/x"):
        with pytest.raises(ValueError, match="not below /sys/fs/bpf"):
            world.also_remove(Path(path))


@pytest.mark.parametrize(
    ("program", "message"), [("ip", "install the package iproute2"), ("openssl", "package openssl")]
)
def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, program: str, message: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else name)
    with pytest.raises(LabError, match=message), World():
        pass


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"pip install tidewaiter\[lab\]"), World():
        pass


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"), World():
        pass


KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from tidewaiter.host import namespace
from tidewaiter.lab import world as module
world = module.World()
print(world.name, flush=True)
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
start = module.World._start
def start_and_die(*arguments):
    start(*arguments)
    die()
match sys.argv[1]:
    case "namespace": namespace._bind_new = die
    case "cable": module._cable = die
    case "servers": module.World._start = start_and_die
with world:
    world.also_remove(Path("/sys/fs/bpf") / world.name)
    (Path("/sys/fs/bpf") / world.name / "deeper").mkdir(parents=True)
    world.popen(["sh", "-c", "trap '' TERM HUP INT; sleep 100; sleep 100"], stdout=subprocess.DEVNULL)
    world.popen(["curl", "-sS", "http://web.lab/bytes/99999999999"], stdout=subprocess.DEVNULL)
    die()
"""


@pytest.mark.parametrize("moment", ["namespace", "cable", "servers", "use"])
def test_nothing_is_left_after_kill_9(moment: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert owner.wait(timeout=10) == -signal.SIGKILL
        # Everything started in the world has the owner's standard error: its end is the end of all.
        owner.communicate(timeout=3)
    assert left_of(name) == []
