"""systemd/: the units are right by systemd's own judgement, agree with the code, and what they start works so confined.

There need be no systemd that runs: likeunit.py does to the two processes what it would do, as far as that goes.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from likeunit import Unit, allowed_calls, parse, words, written_to
from livelab import PATIENCE, Agent, agent_in, eventually, left_of, new_name
from tidewaiter.host import state
from tidewaiter.host.privileges import NEEDED, USEFUL
from tidewaiter.kernel import bpffs
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.policy.document import Policy
from tidewaiter.service.device import Access

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
DRIVER, SOCKET, OWNER = "tidewaiter-driver.service", "tidewaiter-driver.socket", "tidewaiter.service"
LIKE = Path(__file__).with_name("likeunit.py")
GROUP = "daemon"
"""Stands for the group of the units, which need not be on this machine; `nobody` stands for their user."""

BOOT = """
version = 1
[default]
out = "ask"
[[rule]]
name = "from the start"
port = "7/tcp"
verdict = "accept"
"""
MINE = 'version = 1\n[[rule]]\nname = "no telnet"\nport = "23/tcp"\nverdict = "block"\n'


def unit(name: str) -> Unit:
    return parse((UNITS / name).read_text())


def need_systemd() -> None:
    """Its programs, not that it runs. Demanded in CI."""
    if shutil.which("systemd-analyze") is None and os.environ.get("TIDEWAITER_DEMAND") != "1":
        pytest.skip("needs systemd-analyze (apt install systemd)")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need_systemd()
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with the command where it is here."""
    shutil.copytree(UNITS, tmp_path / "units")
    program = Path(sys.executable).with_name("tidewaiter")
    for path in (tmp_path / "units").glob("*.service"):
        path.write_text(path.read_text().replace("ExecStart=tidewaiter ", f"ExecStart={program} "))
    return tmp_path / "units"


# --- by themselves -------------------------------------------------------------------------------


def test_systemd_understands_them(installed: Path) -> None:
    units = [installed / name for name in (DRIVER, SOCKET, OWNER)]
    done = analyze("verify", "--man=no", "--recursive-errors=no", *units)
    said = (
        done.stdout + done.stderr
    ).splitlines()  # also of this machine's own units, which are not ours to judge
    assert (done.returncode, [line for line in said if "tidewaiter" in line]) == (0, [])


def test_systemd_finds_what_is_wrong(installed: Path) -> None:
    """So that the test before this one means something."""
    path = installed / DRIVER
    path.write_text(path.read_text().replace("LockPersonality=yes", "LockPersonality=perhaps"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", path, installed / SOCKET)
    assert DRIVER in done.stdout + done.stderr


@pytest.mark.parametrize(("name", "most"), [(DRIVER, 35), (OWNER, 12)])
def test_systemd_finds_little_exposed(installed: Path, name: str, most: int) -> None:
    """Of 100; an unconfined service has 96. What the driver is for makes the most of its own."""
    done = analyze("security", "--offline=true", f"--threshold={most}", "--no-pager", installed / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_capabilities_are_those_that_the_driver_keeps() -> None:
    kept = {*NEEDED, *USEFUL} - {"CAP_SYS_ADMIN"}
    assert set(words(unit(DRIVER), "CapabilityBoundingSet")) == kept
    assert words(unit(OWNER), "CapabilityBoundingSet") == words(unit(OWNER), "AmbientCapabilities") == []


def test_socket_and_access_agree() -> None:
    command = words(unit(DRIVER), "ExecStart")
    access = command[command.index("--access") + 1]
    assert access == f"group:{unit(SOCKET)['SocketGroup'][0]}"
    assert unit(SOCKET)["SocketUser"] == ["root"]
    assert int(unit(SOCKET)["SocketMode"][0], 8) == Access.parse(f"group:{GROUP}").mode
    assert unit(OWNER)["Group"] == unit(SOCKET)["SocketGroup"]
    assert f"u {unit(OWNER)['User'][0]} " in (UNITS / "sysusers.conf").read_text()


def test_all_speak_of_one_device() -> None:
    device = unit(SOCKET)["ListenStream"][0]
    assert f"--device {device} " in unit(DRIVER)["ExecStart"][0]
    assert f"--driver {device} " in unit(OWNER)["ExecStart"][0]
    assert Path(device).parent == state.RUN == Path("/run", unit(DRIVER)["RuntimeDirectory"][0])


def test_the_driver_stands_before_the_network() -> None:
    for name in (DRIVER, OWNER):
        assert unit(name)["Type"] == ["notify"]
    assert "network-pre.target" in words(unit(DRIVER), "Before")
    assert words(unit(DRIVER), "Wants") == ["network-pre.target"]
    assert words(unit(OWNER), "Before") == ["network-online.target"]
    for name in (DRIVER, SOCKET):  # those that come with it by default wait for more than is there by then
        assert unit(name)["DefaultDependencies"] == ["no"]


def test_what_it_writes_to_is_made_when_the_machine_has_just_booted() -> None:
    """Tried with systemd as the first process: where a path is missing, not even the line runs that makes it."""
    driver = unit(DRIVER)
    made = {command.split()[-1] for command in driver["ExecStartPre"] if command.startswith("+")}
    assert {f"-{path}" for path in made} == set(words(driver, "ReadWritePaths"))
    assert str(state.PINS) in made


def test_what_the_kernels_settings_are_protected_by_cannot_be_named(tmp_path: Path) -> None:
    """systemd takes the more restrictive of two wishes for one path: /sys/fs/bpf itself stays read-only."""
    there = tmp_path / "there"
    there.touch()
    protected = "ProtectKernelTunables=yes\nReadWritePaths="
    assert written_to(parse(f"{protected}-{there} -{tmp_path}/missing")) == [there]
    with pytest.raises(AssertionError):
        written_to(parse(f"{protected}/sys/fs/bpf"))


def test_the_boot_policy_is_one_that_the_kernel_can_evaluate() -> None:
    policy = Policy.load(UNITS / "boot.toml")
    assert len(policy.rules) == 3
    assert words(unit(DRIVER), "ExecStart")[-2:] == ["--policy", "/etc/tidewaiter/boot.toml"]


def test_what_the_filter_leaves() -> None:
    need_systemd()
    dangerous = {
        "mount",
        "unshare",
        "setns",
        "init_module",
        "kexec_load",
        "ptrace",
        "setuid",
        "chroot",
        "reboot",
    }
    assert not dangerous & allowed_calls(unit(DRIVER))
    assert not (dangerous | {"bpf", "open_by_handle_at"}) & allowed_calls(unit(OWNER))


# --- on the live kernel --------------------------------------------------------------------------


class Services:
    """The two units' processes, and the socket that systemd would keep between them."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder, self.name = world, folder, new_name(world)
        self.device = folder / "device"
        (folder / "boot.toml").write_text(BOOT)
        (folder / "mine.toml").write_text(MINE)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(str(self.device))
        os.chown(self.device, 0, grp.getgrnam(GROUP).gr_gid)
        self.device.chmod(int(unit(SOCKET)["SocketMode"][0], 8))
        self.listening.listen()
        self.started: list[subprocess.Popen[str]] = []

    def start_driver(self) -> subprocess.Popen[str]:
        """As by its unit; this returns when it says that it is ready."""
        place = ["--name", self.name, "--cgroup", str(self.world.cgroup)]
        prefix = ["nsenter", f"--net={self.world.client_namespace}"]
        return self._start(DRIVER, {}, place, prefix, str(self.listening.fileno()))

    def start_owner(self, *groups: str) -> subprocess.Popen[str]:
        """As by its unit, as nobody, in the group or not."""
        changes = {
            "User=tidewaiter": "User=nobody",
            "Group=tidewaiter": f"Group=nogroup\nSupplementaryGroups={' '.join(groups)}",
        }
        return self._start(OWNER, changes, ["--json"], [], "-", ready=GROUP in groups)

    def _start(
        self,
        name: str,
        changes: dict[str, str],
        more: list[str],
        prefix: list[str],
        passed: str,
        *,
        ready: bool = True,
    ) -> subprocess.Popen[str]:
        text = (UNITS / name).read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file = self.folder / name
        file.write_text(text)
        here = {
            "/run/tidewaiter/device": str(self.device),
            "group:tidewaiter": f"group:{GROUP}",
            "/etc/tidewaiter/boot.toml": str(self.folder / "boot.toml"),
            "/etc/tidewaiter/policy.toml": str(self.folder / "mine.toml"),
        }
        command = [here.get(word, word) for word in words(parse(text), "ExecStart")[1:]]
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        place = self.folder / "notify"
        place.unlink(missing_ok=True)
        manager.bind(str(place))
        place.chmod(0o666)
        manager.settimeout(0.2)
        started = subprocess.Popen(
            [*prefix, sys.executable, LIKE, file, passed, *command, *more],
            env={**os.environ, "NOTIFY_SOCKET": str(place), "PYTHONUNBUFFERED": "1"},
            pass_fds=[self.listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(started)
        with manager:
            if ready:
                eventually(lambda: _is_ready(manager, started), f"{name} is ready", 2 * PATIENCE)
        return started

    def stop(self) -> None:
        """The owner first."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            with process:
                process.wait(PATIENCE)
        self.listening.close()


def _is_ready(manager: socket.socket, started: subprocess.Popen[str]) -> bool:
    try:
        return manager.recv(1000).startswith(b"READY=1\n")
    except TimeoutError:
        if started.poll() is not None:
            assert started.stderr is not None
            pytest.fail(f"it has ended: {started.stderr.read()}")
        return False


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    with agent_in(world) as agent:
        yield agent


@pytest.fixture
def services(world: World) -> Iterator[Services]:
    """In a folder that `nobody` can enter: pytest's own is root's."""
    need_systemd()
    Path("/run/xtables.lock").touch(0o600)  # ExecStartPre=
    bpffs.ensure()
    kept = (
        state.PINS / f"test-{secrets.token_hex(4)}"
    )  # another firewall may end, and would take an empty folder along
    kept.mkdir(parents=True)  # ExecStartPre=
    state.RUN.mkdir(mode=0o755, exist_ok=True)  # RuntimeDirectory=
    folder = Path(tempfile.mkdtemp(prefix="tidewaiter-units-"))
    folder.chmod(0o755)
    made = Services(world, folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
        kept.rmdir()
    assert left_of(world, made.name) == []


def next_line(output: IO[str] | None, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    assert output is not None
    for line in output:
        found: dict[str, Any] = json.loads(line)
        if wanted(found):
            return found
    pytest.fail("the owner has ended")


def said(output: IO[str] | None, text: str) -> None:
    next_line(output, lambda line: text in line.get("text", ""))


def capability_sets(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"
    return {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}


@pytest.mark.live
def test_the_boot_policy_holds_before_anybody_owns_the_device(
    world: World, agent: Agent, services: Services
) -> None:
    driver = services.start_driver()
    kept = sum(1 << bit for name, bit in (NEEDED | USEFUL).items() if name != "CAP_SYS_ADMIN")
    assert capability_sets(driver.pid) == {kept}
    assert agent.do("tcp", (plan.ECHO.v4, 7), say="hello").heard == "hello"
    assert agent.do("tcp", (plan.WEB.v4, 80), timeout=1).error == "TimeoutError"
    driver.terminate()
    assert driver.wait(PATIENCE) == 0
    assert services.device.exists(), "the socket is systemd's"


@pytest.mark.other_users
@pytest.mark.live
def test_nobody_decides_a_curl(world: World, agent: Agent, services: Services) -> None:
    services.start_driver()
    owner = services.start_owner(GROUP)
    assert capability_sets(owner.pid) == {0}
    done = world.popen(["curl", "-sS", world.environment["LAB_HTTP"]], stdout=subprocess.PIPE, text=True)
    told, _ = done.communicate(timeout=PATIENCE)
    assert "the lab sees" in told
    curl = next_line(owner.stdout, lambda line: line["event"] == "verdict")
    assert (curl["verdict"], curl["rule"], curl["user"], curl["program"]) == ("accept", "default", "root", "")
    assert (curl["pid"], curl["arguments"][0]) == (done.pid, "curl")
    ended = next_line(owner.stdout, lambda line: line["event"] == "end")
    assert ended["pid"] == done.pid
    assert ended["received"] > 0
    assert agent.do("tcp", (plan.ECHO.v4, 23)).error == "ConnectionRefusedError"
    blocked = next_line(owner.stdout, lambda line: line["event"] == "verdict")
    assert (blocked["verdict"], blocked["rule"], blocked["pid"]) == ("block", "no telnet", agent.pid)
    owner.terminate()
    assert owner.wait(PATIENCE) == 0


@pytest.mark.other_users
@pytest.mark.live
def test_a_driver_that_was_killed_comes_back_to_its_owner(
    world: World, agent: Agent, services: Services
) -> None:
    """systemd keeps the socket, so that the owner finds it again; the kernel kept the rest."""
    driver = services.start_driver()
    owner = services.start_owner(GROUP)
    made = agent.do("tcp", (plan.WEB.v4, 7), say="hello")
    driver.kill()
    driver.wait()
    said(owner.stdout, "has gone")
    assert agent.do("say", of=made.id, say="again").heard == "again"
    services.start_driver()
    said(owner.stdout, "is back")
    assert agent.do("tcp", (plan.ECHO.v4, 23)).error == "ConnectionRefusedError"


@pytest.mark.other_users
@pytest.mark.live
def test_whoever_is_not_in_the_group_is_turned_away(services: Services) -> None:
    """By the mode of the socket, and were that wrong, by the driver, which looks at the peer."""
    services.start_driver()
    for mode, reason in ((None, "may not connect to"), (0o666, "does not let us own it")):
        if mode is not None:
            services.device.chmod(mode)
        owner = services.start_owner()
        _, errors = owner.communicate(timeout=PATIENCE)
        assert owner.returncode == 1, errors
        assert reason in errors
    services.device.chmod(0o660)
    services.start_owner("games", GROUP)


@pytest.mark.other_users
@pytest.mark.live
def test_policies_are_read_again(world: World, agent: Agent, services: Services) -> None:
    """ExecReload= of both."""
    driver = services.start_driver()
    owner = services.start_owner(GROUP)
    (services.folder / "boot.toml").write_text(BOOT.replace('"accept"', '"block"'))
    driver.send_signal(signal.SIGHUP)
    eventually(lambda: agent.do("tcp", (plan.ECHO.v4, 7)).error is not None, "the driver's holds", PATIENCE)
    (services.folder / "mine.toml").write_text(MINE.replace("23", "80"))
    with contextlib.suppress(ProcessLookupError):
        owner.send_signal(signal.SIGHUP)
    said(owner.stdout, "is in force")
    assert agent.do("tcp", (plan.WEB.v4, 80)).error == "ConnectionRefusedError"
