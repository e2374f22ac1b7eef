"""service/systemd.py: the socket that a service manager passes, and what it is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tidewaiter.service.device import DeviceError
from tidewaiter.service.systemd import notify, passed_socket

# Runs in a process of its own, whose descriptor 3 is the socket.
TAKE = """
import os
from tidewaiter.service.systemd import passed_socket, path_of
try:
    found = passed_socket()
except Exception as error:
    print(type(error).__name__, error)
else:
    print(path_of(found), found.get_inheritable(), found.getblocking(), passed_socket(), "LISTEN_FDS" in os.environ)
"""


def listening(path: Path | str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen()
    return made


def take(given: socket.socket, count: str = "1") -> str:
    """What a process says to which a socket is passed as systemd does it."""
    shell = 'exec 3<&"$1"; shift; exec env LISTEN_PID=$$ "$@"'
    done = subprocess.run(
        ["bash", "-c", shell, "-", str(given.fileno()), f"LISTEN_FDS={count}", sys.executable, "-c", TAKE],
        pass_fds=[given.fileno()],
        capture_output=True,
        text=True,
        check=True,
    )
    given.close()
    return done.stdout.strip()


def test_the_socket_is_taken_once(tmp_path: Path) -> None:
    assert take(listening(tmp_path / "device")) == f"{tmp_path}/device False False None False"


def test_systemds_own_tool_passes_one(tmp_path: Path) -> None:
    """systemd-socket-activate(1) listens, and starts the command at the first connection."""
    path = tmp_path / "device"
    command = ["systemd-socket-activate", "-l", str(path), sys.executable, "-c", TAKE]
    try:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        if os.environ.get("TIDEWAITER_DEMAND") == "1":
            raise
        pytest.skip("needs systemd-socket-activate (apt install systemd)")
    with started, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            while True:
                try:
                    peer.connect(str(path))
                except (FileNotFoundError, ConnectionRefusedError):
                    assert started.poll() is None
                else:
                    break
            said, _ = started.communicate(timeout=60)
        finally:
            started.kill()
    assert said.strip() == f"{path} False False None False"


@pytest.mark.parametrize(
    "make",
    [
        lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        lambda _: socket.create_server(("127.0.0.1", 0)),
        listening,
    ],
    ids=["does not listen", "datagrams", "inet", "without a path"],
)
def test_another_socket_is_no_device(make: Callable[[str], socket.socket], tmp_path: Path) -> None:
    said = take(make(f"\0{tmp_path}"))
    assert said.startswith(
        "DeviceError the service manager has passed what is no listening Unix stream socket"
    )


@pytest.mark.parametrize("count", ["0", "2", ""])
def test_the_device_is_one(count: str, tmp_path: Path) -> None:
    said = take(listening(tmp_path / "device"), count)
    assert (
        said == f"DeviceError the service manager has passed {count or 'no'} sockets, and the device is one"
    )


def test_what_is_for_another_process_is_left() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "OTHER": "x"}
    assert passed_socket(environment) is None
    assert environment == {"OTHER": "x"}
    assert passed_socket({}) is None


def test_errors_are_the_devices() -> None:
    with pytest.raises(DeviceError, match="has passed 3 sockets"):
        passed_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3"})


@pytest.mark.parametrize("abstract", [True, False])
def test_the_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"\0tidewaiter-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(10)
        notify("READY=1", "STATUS=here", environment={"NOTIFY_SOCKET": name.replace("\0", "@")})
        assert manager.recv(100) == b"READY=1\nSTATUS=here"


def test_without_a_manager_nobody_is_told(tmp_path: Path) -> None:
    notify("READY=1", environment={})
    notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})
