"""`tidewaiter driver` and `tidewaiter lab --device`: the driver alone, and an owner that connects to it."""

from __future__ import annotations

import signal
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
        f"Error: no device can be made at {path}: Address already in use\n",
    )


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
