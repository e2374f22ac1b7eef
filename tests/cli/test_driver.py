"""`tidewaiter driver` and `tidewaiter lab --device`: the driver alone, and an owner that connects to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from livelab import PATIENCE, Agent, left_of, new_name
from tidewaiter.cli import driver as module
from tidewaiter.cli.driver import driver
from tidewaiter.cli.lab import lab
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

OWNER = Path(__file__).parents[2] / "examples" / "owner.py"
COMMAND = [sys.executable, "-m", "tidewaiter"]


@pytest.mark.parametrize("access", ["group:no-such-group", "everybody", "group"])
def test_an_access_that_is_none(access: str) -> None:
    result = CliRunner().invoke(driver, ["--access", access])
    assert result.exit_code == 2
    assert "Invalid value for '--access'" in result.stderr


def test_without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "it needs what is not there")
    result = CliRunner().invoke(driver, [])
    assert (result.exit_code, result.stderr) == (1, "Error: it needs what is not there\n")


def test_redirect_targets_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "")
    result = CliRunner().invoke(driver, ["--tunnel-port", "53"])
    assert (result.exit_code, result.stderr) == (1, "Error: two redirect targets share a port: 53, 53, 719\n")


@pytest.mark.parametrize("other", [["--policy", "x.toml"], ["--no-firewall"]])
def test_an_owner_needs_no_policy(other: list[str]) -> None:
    result = CliRunner().invoke(lab, ["--device", "/tmp/x", *other, "true"])
    assert result.exit_code == 2
    assert "With --device its owner decides" in result.stderr


@pytest.mark.live
def test_an_owner_in_another_process_decides(world: World, agent: Agent, tmp_path: Path) -> None:
    name, path = new_name(world), tmp_path / "device"
    options: list[str | Path] = ["--device", path, "--name", name, "--cgroup", world.cgroup]
    options += ["--netns", world.client_namespace]
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, "driver", *options], stderr=pipe, text=True) as serving:
        assert serving.stderr is not None
        assert f"for the owner of {path}" in serving.stderr.readline()
        with subprocess.Popen([sys.executable, OWNER, path], stdout=pipe, text=True) as owner:
            assert agent.do("tcp", (plan.ECHO.v4, 7), say="hello").heard == "hello"
            assert agent.do("tcp", (plan.ECHO.v4, 23)).error == "ConnectionRefusedError"
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(PATIENCE) == 0
            told, _ = owner.communicate(timeout=PATIENCE)
            assert owner.returncode == 0
    assert f"accept           pid {agent.pid} -> {plan.ECHO.v4} 7 protocol 6" in told
    assert f"block            pid {agent.pid} -> {plan.ECHO.v4} 23 protocol 6" in told
    assert left_of(world, name) == []
    assert not path.exists()


@pytest.mark.live
def test_a_device_that_is_taken_is_one_sentence(world: World, tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.write_text("")
    options: list[str | Path] = ["--device", path, "--name", new_name(world), "--cgroup", world.cgroup]
    done = subprocess.run(
        [*COMMAND, "driver", *options, "--netns", world.client_namespace],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {path} is there already, and no socket: remove it, or choose another path\n",
    )


def started(world: World, *options: str | Path) -> subprocess.Popen[str]:
    command = [*COMMAND, "driver", "--cgroup", world.cgroup, "--netns", world.client_namespace, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.live
def test_a_policy_decides_first_and_is_read_again(world: World, agent: Agent, tmp_path: Path) -> None:
    name, path, policy = new_name(world), tmp_path / "device", tmp_path / "policy.toml"
    rule = 'version = 1\n[default]\nout = "ask"\n[[rule]]\nname = "echo"\nport = "7/tcp"\nverdict = '
    policy.write_text(f'{rule}"accept"\n')
    with started(world, "--device", path, "--name", name, "--policy", policy) as serving:
        assert serving.stderr is not None
        assert f"for the owner of {path}" in serving.stderr.readline()
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="hello").heard == "hello"
        assert agent.do("tcp", (plan.WEB.v4, 80), timeout=1).error == "TimeoutError"
        policy.write_text(f'{rule}"block"\n')
        assert serving.stderr.readline() == f"{policy} is in force\n"
        assert agent.do("tcp", (plan.ECHO.v4, 7)).error == "PermissionError"
        policy.write_text("version = 7\n")
        assert serving.stderr.readline().endswith("; the policy in force stays\n")
        serving.terminate()
        assert serving.wait(PATIENCE) == 0
    assert left_of(world, name) == []


@pytest.mark.live
def test_a_policy_that_is_none_is_one_sentence(world: World, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("version = 7\n")
    with started(world, "--device", tmp_path / "device", "--policy", policy) as serving:
        _, errors = serving.communicate(timeout=PATIENCE)
    assert serving.returncode == 2
    assert errors.startswith(f"Error: {policy}:1:11: ")
    assert errors.count("\n") == 1


@pytest.mark.live
def test_a_device_that_is_not_the_socket_of_systemd(world: World, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passed:
        passed.bind(str(tmp_path / "passed"))
        passed.listen()
        shell = 'exec 3<&"$1"; shift; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        done = subprocess.run(
            [
                "bash",
                "-c",
                shell,
                "-",
                str(passed.fileno()),
                *COMMAND,
                "driver",
                "--device",
                tmp_path / "other",
            ],
            pass_fds=[passed.fileno()],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: systemd has passed the socket {tmp_path / 'passed'}: leave --device away, or name that one\n",
    )


@pytest.mark.live
def test_a_device_in_a_folder_of_another_user_stays_and_is_replaced(world: World, tmp_path: Path) -> None:
    """Without the rights that were given away it cannot be removed; that is said."""
    name, path = new_name(world), tmp_path / "theirs" / "device"
    path.parent.mkdir(mode=0o755)
    os.chown(path.parent, 65534, 65534)
    for _ in range(2):
        with started(world, "--device", path, "--name", name) as serving:
            assert serving.stderr is not None
            assert f"for the owner of {path}" in serving.stderr.readline()
            serving.terminate()
            assert serving.stderr.read() == f"not removed: {path}: Permission denied\n"
            assert serving.wait(PATIENCE) == 0
    assert left_of(world, name) == []


@pytest.mark.live
def test_a_lab_with_an_owner(tmp_path: Path) -> None:
    path, told = tmp_path / "device", tmp_path / "told"
    script = f"{sys.executable} {OWNER} {path} > {told} & sleep 1; curl -sS $LAB_HTTP; sleep 0.3"
    done = subprocess.run(
        [*COMMAND, "lab", "--device", path, "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the lab sees 10.77.0.1 port" in done.stdout
    assert "-> 10.77.0.10 80 protocol 6" in told.read_text()


LAST_OWNER = """
import socket, sys, time
device = socket.socket(socket.AF_UNIX)
while device.connect_ex(sys.argv[1]):
    time.sleep(0.05)
print("ready", flush=True)
assert device.recv(65536), "somebody connects"
device.sendall(b"\\0")  # Shutdown
while device.recv(65536):
    pass
print("over")
"""


@pytest.mark.live
def test_an_owner_shuts_the_driver_of_a_lab_down(tmp_path: Path) -> None:
    """What was held is resolved at once, the stream ends, and the lab goes on without a firewall."""
    path, told, owner = tmp_path / "device", tmp_path / "told", tmp_path / "owner.py"
    owner.write_text(LAST_OWNER)
    script = (
        f"{sys.executable} {owner} {path} > {told} & until grep -q ready {told}; do sleep 0.05; done; "
        "curl -m 5 -sS $LAB_HTTP; wait; curl -sS $LAB_HTTP"
    )
    done = subprocess.run(
        [*COMMAND, "lab", "--quiet", "--timeout", "50", "--device", path, "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the lab sees 10.77.0.1 port") >= 1
    assert told.read_text() == "ready\nover\n"
