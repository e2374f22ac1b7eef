"""host/processes.py: against live processes of our own, and against records of the kernel half."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host import cgroup, namespace, processes
from tidewaiter.host.processes import FOREIGN, PARTIAL, Processes, owners_of, read_process, user_name
from tidewaiter.kernel import objects
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.model.process import Process

OWN_NETWORK = Path("/proc/self/ns/net")
TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
OURS = Path("/proc/self/exe").stat()
NOBODY = 2**22 + 1  # above every pid (PID_MAX_LIMIT)
SLEEP = shutil.which("sleep") or "/bin/sleep"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs that end with the test, and waits until each has become itself."""
    with ExitStack() as stack:

        def start(*argv: str | bytes | Path, **options: Any) -> subprocess.Popen[bytes]:
            child = stack.enter_context(subprocess.Popen(argv, **options))
            stack.callback(child.kill)
            deadline = time.monotonic() + 10
            while not Path(
                f"/proc/{child.pid}/cmdline"
            ).read_bytes():  # in the middle of exec, or over already
                if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    break
                assert time.monotonic() < deadline
            return child

        yield start


def known(process: Process | None) -> Process:
    assert process is not None
    return process


def test_ourselves() -> None:
    found = known(read_process(os.getpid()))
    assert found.path == str(Path("/proc/self/exe").readlink())
    assert list(found.arguments) == sys.orig_argv
    assert (found.uid, found.gid, found.user) == (os.getuid(), os.getgid(), user_name(os.getuid()))
    assert (found.device, found.inode) == (OURS.st_dev, OURS.st_ino)
    assert found.parents[0] == os.getppid()
    assert len(found.parents) <= 8


def test_a_path_from_another_root() -> None:
    """What /proc says of a process in another mount namespace, to a reader in a chroot."""
    here = os.path.realpath(SLEEP)
    file = Path(here).stat()
    assert processes._as_we_see_it(f"/var/cache/root.1{here}", file) == here
    assert processes._as_we_see_it("/var/cache/root.1/bin/none", file) == "/var/cache/root.1/bin/none"
    assert processes._as_we_see_it("", file) == ""


def test_a_child(start: Start) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    child = start(SLEEP, "60")
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    found = known(read_process(child.pid))
    assert found.arguments == (SLEEP, "60")
    assert found.path == os.path.realpath(SLEEP)
    assert found.parents[0] == os.getpid()
    assert found.parents[1] == os.getppid()
    assert before - TICK < found.started <= after
    assert found.started % TICK == 0


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        (b"program", True),
        (b"program (deleted)", False),
        (b"program (deleted)", True),
        (b"a) S 1 (b\n", False),
        (b"\xff\xfe", False),
        (b"\xff\xfe", True),
    ],
)
def test_the_path_is_the_name_that_the_executable_had(
    start: Start, tmp_path: Path, name: bytes, removed: bool
) -> None:
    path = tmp_path / os.fsdecode(name)
    shutil.copy(SLEEP, path)
    path.chmod(0o755)
    inode = path.stat().st_ino
    child = start(path, "60")
    if removed:
        path.unlink()
    found = known(read_process(child.pid))
    assert os.fsencode(found.path) == os.fsencode(path)
    assert found.inode == inode
    assert found.parents[0] == os.getpid()


def test_another_file_with_the_name_of_the_removed_one(start: Start, tmp_path: Path) -> None:
    shutil.copy(SLEEP, tmp_path / "program")
    child = start(tmp_path / "program", "60")
    (tmp_path / "program").unlink()
    (tmp_path / "program (deleted)").touch()
    assert known(read_process(child.pid)).path == str(tmp_path / "program")


@pytest.mark.parametrize(
    "arguments",
    [(b"60", b"", b"0"), (b"60", b"\xff"), (b"60", b""), (b"60", "ä ö".encode(), b"x" * 3000)],
)
def test_arguments_are_bytes_that_come_back(start: Start, arguments: tuple[bytes, ...]) -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    child = start(sys.executable, "-c", code, *arguments, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    found = known(read_process(child.pid)).arguments
    assert tuple(map(os.fsencode, found))[3:] == arguments


def test_a_process_that_ended_but_was_not_waited_for(start: Start) -> None:
    child = start("/bin/true")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = known(read_process(child.pid))
    assert (found.path, found.arguments, found.name) == ("", (), f"pid {child.pid}")
    assert found.parents[0] == os.getpid()


def test_a_process_that_is_not_there(start: Start) -> None:
    assert read_process(NOBODY) is None
    child = start("/bin/true")
    child.wait()
    assert read_process(child.pid) is None


def test_two_processes_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000, 2000])  # the pid is used again between the first and the last look
    monkeypatch.setattr(processes, "_started", lambda pid: next(times))
    assert read_process(os.getpid()) is None


def test_processes_that_come_and_go() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            subprocess.run(["/bin/true"], check=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        seen = 0
        while seen < 300:
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal() and int(entry.name) > os.getpid():
                    read_process(int(entry.name))
                    seen += 1
            assert owners_of({1}) == {}
    finally:
        stop.set()
        thread.join()


@pytest.mark.live
def test_the_control_group(start: Start) -> None:
    path = cgroup.create(f"tw-test-{secrets.token_hex(4)}")
    try:
        inner = path / "a b.service"
        inner.mkdir()
        child = start(SLEEP, "60")
        (inner / "cgroup.procs").write_text(str(child.pid))
        found = known(read_process(child.pid))
        assert found.cgroup == f"/{path.name}/a b.service"
        assert found.cgroup_id == cgroup.id_of(inner)
        assert found.unit == "a b.service"
        record = Processes().of_record(record_of(), child.pid, 0, 0, cgroup.id_of(inner))
        assert record.cgroup == found.cgroup
    finally:
        cgroup.remove(path)
    assert processes._group_path.__wrapped__(found.cgroup_id) == ""
    assert Processes().of_record(record_of(), 1, 0, 0, cgroup.id_of(cgroup.root())).cgroup == "/"


def test_the_owner_of_a_socket(start: Start) -> None:
    with socket.socket() as ours, socket.socket() as theirs:
        both, none = os.fstat(theirs.fileno()).st_ino, 2**40
        child = start(SLEEP, "60", pass_fds=[theirs.fileno()])
        mine = os.fstat(ours.fileno()).st_ino
        found = owners_of({mine, both, none})
        assert found.keys() == {mine, both}
        assert {found[mine].pid, found[both].pid} == {os.getpid()}
        theirs.close()
        assert owners_of({both})[both].pid == child.pid
    assert owners_of(set()) == {}


def test_a_service_manager_is_the_last_to_own(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {1: [7, 8], 5: [7], 9: [7]}
    monkeypatch.setattr(processes, "_socket_inodes", lambda pid: iter(held.get(pid, [])))
    monkeypatch.setattr(processes, "read_process", Process)
    monkeypatch.setattr(Path, "iterdir", lambda self: map(Path, ("9", "1", "self", "5", "12", "meminfo")))
    assert owners_of({7, 8, 6}) == {7: Process(5), 8: Process(1)}


def test_names_of_users() -> None:
    assert user_name(0) == "root"
    assert user_name(2**32 - 1) == ""
    assert user_name(4_000_000_000) == ""


# --- records ---------------------------------------------------------------------------------

LAYOUT = objects.types().structure("tw_process")


def record_of(
    path: bytes = b"/usr/bin/program", arguments: bytes = b"program\0-v\0", **fields: Any
) -> dict[str, Any]:
    """A record as the kernel half writes it, through its bytes."""
    values = {
        "started": 5_000_000_123,
        "path": bytes(512 - len(path)) + path,
        "path_start": 512 - len(path),
        "arguments": arguments.ljust(512, b"\0"),
        "arguments_length": len(arguments),
        "parents": (7, 5, 1, 0, 0, 0, 0, 0),
    }
    return LAYOUT.unpack(LAYOUT.pack({**values, **fields}))


def test_a_record_becomes_a_process() -> None:
    record = record_of(inode=77, device=8 << 20 | 1, started=123)
    assert Processes().of_record(record, 40, 0, 5, 0) == Process(
        pid=40,
        path="/usr/bin/program",
        arguments=("program", "-v"),
        uid=0,
        gid=5,
        user="root",
        started=123,
        device=os.makedev(8, 1),
        inode=77,
        parents=(7, 5, 1),
        cgroup="",
        cgroup_id=0,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b"", ()),
        (b"\0", ("",)),
        (b"a", ("a",)),
        (b"a\0b", ("a", "b")),
        (b"a\0\0b\0", ("a", "", "b")),
        (b"\xff\0", ("\udcff",)),
        (b"x" * 512, ("x" * 512,)),
    ],
)
def test_arguments_of_a_record(arguments: bytes, expected: tuple[str, ...]) -> None:
    assert Processes().of_record(record_of(arguments=arguments), 4, 0, 0, 0).arguments == expected


def test_what_is_behind_the_arguments_is_not_theirs() -> None:
    record = record_of(arguments=b"curl\0-s\0", arguments_length=5)
    assert Processes().of_record(record, 4, 0, 0, 0).arguments == ("curl",)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ((0,) * 8, ()),
        ((1, 99, 98, 0, 0, 0, 0, 0), (1,)),  # left from the place's last use
        (tuple(range(10, 18)), tuple(range(10, 18))),
    ],
)
def test_parents_of_a_record(parents: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert Processes().of_record(record_of(parents=parents), 4, 0, 0, 0).parents == expected


@pytest.mark.parametrize(("path", "expected"), [(b"", ""), (b"/\xff", "/\udcff"), (b"/" * 512, "/" * 512)])
def test_paths_of_a_record(path: bytes, expected: str) -> None:
    assert Processes().of_record(record_of(path), 4, 0, 0, 0).path == expected


def test_a_path_of_a_user_namespace_counts_where_it_leads_to_the_same_file_here(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.touch()
    file = one.stat()
    device = os.major(file.st_dev) << 20 | os.minor(file.st_dev)
    for path, found in (
        (one, f"{one}"),
        (other, f"{FOREIGN}{other}"),
        (tmp_path / "none", f"{FOREIGN}{tmp_path}/none"),
    ):
        record = record_of(bytes(path), foreign=1, inode=file.st_ino, device=device)
        assert Processes().of_record(record, 4, 0, 0, 0).path == found
    record = record_of(bytes(one), foreign=1, truncated=1, inode=file.st_ino, device=device)
    assert Processes().of_record(record, 4, 0, 0, 0).path == f"{FOREIGN}{one}"


@pytest.mark.live
@pytest.mark.own_mounts
def test_the_same_of_a_process_that_proc_shows(start: Start) -> None:
    curl, bash = (os.path.realpath(path) for path in ("/usr/bin/curl", "/bin/bash"))
    wait = f"exec {curl} -c 'echo; read line'"
    for command, path in (
        (f"mount --bind {bash} {curl}; {wait}", f"{FOREIGN}{curl}"),
        (f"exec {bash} -c 'echo; read line'", bash),
    ):
        child = start(
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline()
        assert known(read_process(child.pid)).path == path


def test_a_path_that_was_too_long_is_looked_up(start: Start) -> None:
    child = start(SLEEP, "60")
    now = known(read_process(child.pid))
    record = record_of(b"/bin/sleep", truncated=1, started=now.started + TICK - 1)
    assert Processes().of_record(record, child.pid, 0, 0, 0).path == now.path
    other = record_of(b"/bin/sleep", truncated=1, started=now.started + TICK)
    assert Processes().of_record(other, child.pid, 0, 0, 0).path == f"{PARTIAL}/bin/sleep"


def test_a_part_of_a_path_is_not_taken_for_a_path() -> None:
    record = record_of(b"/usr/bin/curl", truncated=1)
    found = Processes().of_record(record, NOBODY, 0, 0, 0)
    assert (found.path, found.name) == (f"{PARTIAL}/usr/bin/curl", "curl")


def test_the_same_record_is_the_same_process() -> None:
    cache = Processes()
    first = cache.of_record(record_of(), 40, 0, 0, 0)
    assert cache.of_record(record_of(program=3, programs_version=9), 40, 0, 0, 0) is first
    assert cache.of_pid(40, first.started) is first
    assert cache.of_pid(40, first.started + 1) == Process(pid=40, started=first.started + 1)
    assert cache.of_pid(41, first.started) == Process(pid=41, started=first.started)


@pytest.mark.parametrize(
    ("changed", "owner", "field", "value"),
    [
        ({"image": 4, "path": bytes(508) + b"/new", "path_start": 508}, (0, 0), "path", "/new"),
        ({}, (2**32 - 1, 0), "uid", 2**32 - 1),
        ({}, (0, 4), "gid", 4),
    ],
)
def test_a_process_may_become_another_program_or_user(
    changed: dict[str, Any], owner: tuple[int, int], field: str, value: object
) -> None:
    cache = Processes()
    cache.of_record(record_of(), 40, 0, 0, 0)
    found = cache.of_record(record_of(**changed), 40, *owner, 0)
    assert getattr(found, field) == value
    assert cache.of_pid(40, found.started) is found


def test_the_process_not_asked_for_longest_is_forgotten() -> None:
    cache = Processes(limit=2)
    first, second = (cache.of_record(record_of(), pid, 0, 0, 0) for pid in (1, 2))
    assert cache.of_pid(1, first.started) is first
    cache.of_record(record_of(), 3, 0, 0, 0)
    assert cache.of_pid(2, second.started) == Process(pid=2, started=second.started)
    assert cache.of_record(record_of(), 1, 0, 0, 0) is first
    cache.of_record(record_of(), 4, 0, 0, 0)
    assert cache.of_pid(3, second.started) == Process(pid=3, started=second.started)
    assert cache.of_pid(1, first.started) is first


def test_by_pid_while_it_lives_and_after(start: Start) -> None:
    cache = Processes()
    child = start(SLEEP, "60")
    started = known(read_process(child.pid)).started + 5
    found = cache.of_pid(child.pid, started)
    assert found == read_process(child.pid)
    assert cache.of_pid(child.pid, started + TICK) == Process(pid=child.pid, started=started + TICK)
    child.kill()
    child.wait()
    assert cache.of_pid(child.pid, started) is found
    assert Processes().of_pid(child.pid, started) == Process(pid=child.pid, started=started)


def test_by_pid_sees_what_a_process_has_become(start: Start) -> None:
    cache = Processes()
    child = start("/bin/sh", "-c", f"read line; exec {SLEEP} 60", stdin=subprocess.PIPE)
    started = known(read_process(child.pid)).started
    assert cache.of_pid(child.pid, started).path == os.path.realpath("/bin/sh")
    assert child.stdin is not None
    child.stdin.close()
    deadline = time.monotonic() + 10
    while cache.of_pid(child.pid, started).name != Path(os.path.realpath(SLEEP)).name:
        assert time.monotonic() < deadline


@given(st.binary(min_size=LAYOUT.size, max_size=LAYOUT.size), st.integers(0, 2**64 - 1))
def test_any_bytes_make_a_process(data: bytes, cgroup_id: int) -> None:
    found = Processes().of_record(LAYOUT.unpack(data), NOBODY, 2**31, 2**31, cgroup_id)
    assert isinstance(found, Process)
    os.fsencode(found.path.removeprefix(PARTIAL))
    assert all(isinstance(os.fsencode(argument), bytes) for argument in found.arguments)


@given(st.lists(st.binary(max_size=40).filter(lambda argument: b"\0" not in argument), max_size=12))
def test_arguments_survive(arguments: list[bytes]) -> None:
    line = b"".join(argument + b"\0" for argument in arguments)
    found = Processes().of_record(record_of(arguments=line), 4, 0, 0, 0).arguments
    assert list(map(os.fsencode, found)) == arguments


@pytest.fixture
def kernel_in() -> Iterator[tuple[Kernel, Path]]:
    """The kernel half, attached to a control group of its own without refusing anything."""
    name = f"tw-test-{secrets.token_hex(4)}"
    path = cgroup.create(name)
    try:
        kernel = Kernel.load(Path("/sys/fs/bpf") / name, Mode.OBSERVE)
        try:
            kernel.identify()
            kernel.map("namespaces").write({"value": namespace.cookie(OWN_NETWORK)}, {"value": 1})
            kernel.attach(path)
            yield kernel, path
        finally:
            kernel.remove()
    finally:
        cgroup.remove(path)


@pytest.mark.live
def test_the_kernels_record_and_proc_say_the_same(kernel_in: tuple[Kernel, Path], start: Start) -> None:
    kernel, group = kernel_in
    code = "import socket, sys; sys.stdin.readline(); s = socket.socket(type=2); "
    code += "s.connect(('127.0.0.1', 9)); print(flush=True); sys.stdin.readline()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    child = start(sys.executable, "-c", code, "ä", "", **pipes)
    assert child.stdin is not None
    assert child.stdout is not None
    (group / "cgroup.procs").write_text(str(child.pid))
    child.stdin.write(b"\n")
    child.stdout.readline()
    record = kernel.map("processes").read(value=child.pid)
    assert record is not None
    found = Processes().of_record(record, child.pid, os.getuid(), os.getgid(), cgroup.id_of(group))
    expected = known(read_process(child.pid))
    assert 0 <= found.started - expected.started < TICK
    assert found.cgroup == f"/{group.name}"
    names = ("path", "arguments", "user", "device", "inode", "parents", "cgroup", "cgroup_id")
    assert {name: getattr(found, name) for name in names} == {name: getattr(expected, name) for name in names}
