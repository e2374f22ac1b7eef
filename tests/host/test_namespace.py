"""host/namespace.py on the live kernel, with namespaces of its own."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidewaiter.host import cgroup, namespace

OWN = Path("/proc/thread-self/ns/net")


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a namespace; whoever makes it need not remove it."""
    name = f"tw-test-{secrets.token_hex(4)}"
    yield name
    if name in namespace.names():
        namespace.delete(name)


@pytest.fixture
def path(name: str) -> Path:
    return namespace.create(name)


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../etc", "a\0b"])
def test_a_name_must_be_a_file_name(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a network namespace"):
        namespace.path_of(bad)


@pytest.mark.live
def test_is_made_found_and_removed(name: str) -> None:
    assert name not in namespace.names()
    path = namespace.create(name)
    assert path == namespace.path_of(name)
    assert name in namespace.names()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name in listed.split()
    namespace.delete(name)
    assert not path.exists()


@pytest.mark.live
def test_a_taken_name_is_refused_and_stays(path: Path, name: str) -> None:
    with pytest.raises(FileExistsError):
        namespace.create(name)
    assert namespace.cookie(path)


@pytest.mark.live
def test_removing_what_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        namespace.delete("tw-test-never-made")


@pytest.mark.live
def test_a_name_that_a_crash_left_unbound_is_removed(name: str) -> None:
    namespace.path_of(name).touch()
    namespace.delete(name)
    assert name not in namespace.names()


@pytest.mark.live
def test_names_are_on_a_shared_mount_of_their_own(path: Path) -> None:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    (shared,) = {any(f.startswith("shared:") for f in line[6:]) for line in lines if line[4] == "/run/netns"}
    assert shared
    assert path.exists()


@pytest.mark.live
def test_runs_inside_and_the_caller_stays_where_it_was(path: Path) -> None:
    before = OWN.stat().st_ino
    assert namespace.run_inside(path, lambda: OWN.stat().st_ino) == path.stat().st_ino
    assert OWN.stat().st_ino == before != path.stat().st_ino


@pytest.mark.live
def test_a_socket_opened_inside_stays_there(path: Path) -> None:
    inside = namespace.run_inside(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with inside, pytest.raises(OSError, match="unreachable"):  # a new namespace has no way anywhere
        inside.connect(("127.0.0.1", 9))


@pytest.mark.live
def test_what_is_raised_inside_arrives(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        namespace.run_inside(path, lambda: 1 // 0)
    with pytest.raises(FileNotFoundError):
        namespace.run_inside(namespace.path_of("tw-test-never-made"), OWN.stat)


@pytest.mark.live
def test_cookies_tell_namespaces_apart(path: Path) -> None:
    assert namespace.cookie(path) == namespace.cookie(path)
    assert namespace.cookie(path) != namespace.cookie(Path("/proc/self/ns/net"))


@pytest.mark.live
def test_a_command_runs_inside_with_its_arguments_as_they_are(path: Path) -> None:
    arguments = ["a b", "$HOME", "", "'\"", "-n"]
    script = 'readlink /proc/self/ns/net; for each; do printf "<%s>\\n" "$each"; done'
    command = namespace.popen(
        ["sh", "-c", script, "sh", *arguments], namespace=path, stdout=subprocess.PIPE, text=True
    )
    output, _ = command.communicate()
    assert output.splitlines() == [f"net:[{path.stat().st_ino}]", *(f"<{each}>" for each in arguments)]


@pytest.mark.live
def test_a_command_runs_in_a_control_group_from_the_start(path: Path, name: str) -> None:
    group = cgroup.create(name)
    try:
        command = namespace.popen(
            ["cat", "/proc/self/cgroup", "/proc/self/stat"],
            namespace=path,
            cgroup=group,
            stdout=subprocess.PIPE,
            text=True,
        )
        output, _ = command.communicate()
        assert f"0::/{name}\n" in output
        assert f"\n{command.pid} (cat)" in output
    finally:
        cgroup.remove(group)


@pytest.mark.live
def test_a_missing_command(path: Path, name: str) -> None:
    group = cgroup.create(name)
    try:
        command = namespace.popen(
            ["/no/such"], namespace=path, cgroup=group, stderr=subprocess.PIPE, text=True
        )
        _, message = command.communicate()
        assert command.returncode == 127
        assert "/no/such" in message
    finally:
        cgroup.remove(group)
    with pytest.raises(FileNotFoundError):
        namespace.popen(["/no/such"], namespace=path)


@pytest.mark.live
def test_a_command_does_not_start_when_its_control_group_has_gone(path: Path, tmp_path: Path) -> None:
    command = namespace.popen(
        ["touch", tmp_path / "it-ran"], namespace=path, cgroup=tmp_path / "gone", stderr=subprocess.DEVNULL
    )
    assert command.wait() != 0
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.live
def test_files_are_covered_for_the_command_only(path: Path, tmp_path: Path) -> None:
    seen, other = tmp_path / "seen", tmp_path / "other"
    seen.write_text("outside")
    other.write_text("inside")
    command = namespace.popen(
        ["sh", "-c", f"cat {seen}; test -f {cgroup.root()}/cgroup.procs"],
        namespace=path,
        files={seen: other},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = command.communicate()
    assert (output, command.returncode) == ("inside", 0)
    assert seen.read_text() == "outside"
