"""Who is a process: from the kernel half's record of it, or from /proc for what was there before us.

What /proc holds is in proc(5). It is read as bytes, since names there are bytes, and without trust that a
process stays: it may end, and its pid be used again, at any moment.
"""

from __future__ import annotations

import os
import pwd
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tidewaiter.host import cgroup
from tidewaiter.model.process import Process

PARTIAL = "…"
"""What a path begins with that was too long for the kernel half: no rule takes it for another one."""

FOREIGN = "userns:"
"""What a path begins with that holds in a user namespace only, whose owner may mount any file anywhere: no rule takes
it for the path of this host."""

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds: the unit of time in /proc."""

_PARENTS = 8  # as many as the kernel half records (TW_PARENTS)
_ARGUMENTS = 4096  # bytes of a command line; the kernel half records fewer (TW_ARGUMENTS)
_MINOR_BITS = 20  # of the kernel's own dev_t (include/linux/kdev_t.h)
_DELETED = " (deleted)"
_SOCKET = "socket:["


def read_process(pid: int) -> Process | None:
    """The process as /proc shows it now, or None when it is not there (any more).

    ``started`` is rounded down to clock ticks (10 ms), where the kernel half knows it to the nanosecond.
    The executable of another user's process is "" without the right to look at it (CAP_SYS_PTRACE).
    """
    try:
        started = _started(pid)
        uid, gid = _user_and_group(pid)
        line = _read(pid, "cmdline", _ARGUMENTS)
        path, device, inode = _executable(pid)
        group, group_id = _control_group(pid)
        parents = tuple(_ancestors(pid))
        if _started(pid) != started:  # what was read is of two processes
            return None
    except OSError:
        return None
    return Process(
        pid=pid,
        path=path,
        arguments=_arguments(line),
        uid=uid,
        gid=gid,
        user=user_name(uid),
        started=started,
        device=device,
        inode=inode,
        parents=parents,
        cgroup=group,
        cgroup_id=group_id,
    )


def owners_of(inodes: frozenset[int] | set[int]) -> dict[int, Process]:
    """The process that holds each socket, by the socket's inode, found in one scan of /proc.

    Of several that share a socket it is the one that began first, but pid 1 only if nobody else has it:
    a service manager opens sockets for its services. Sockets that nobody (visible) holds are left out.
    """
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        held = inodes.intersection(_socket_inodes(int(entry.name))) if entry.name.isdecimal() else None
        process = read_process(int(entry.name)) if held else None
        if held and process is not None:
            for inode in held:
                found[inode] = min(found.get(inode, process), process, key=_seniority)
    return found


def _seniority(process: Process) -> tuple[bool, int, int]:
    return process.pid == 1, process.started, process.pid


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """The name of a user, or "" for one without a name. Remembered, as a directory service may be slow."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


class Processes:
    """Turns the kernel half's records into processes, and remembers the last ``limit`` of them.

    One that ended is remembered by its pid and start time, which name it for good.
    """

    def __init__(self, limit: int = 4096) -> None:
        """``limit`` is the number of processes; the one not asked for longest is forgotten first."""
        self._limit = limit
        self._known: OrderedDict[tuple[int, int], tuple[Any, Process]] = OrderedDict()

    def of_record(self, record: Mapping[str, Any], pid: int, uid: int, gid: int, cgroup_id: int) -> Process:
        """The process of a ``struct tw_process`` (kernel/types.h), unpacked to its fields by name.

        The user, group and control group are those of the moment of the connection, which the record of a
        process does not hold.
        """
        key = pid, record["started"]
        # The same process may become another program (image), user or group: then it is made anew.
        seen = uid, gid, cgroup_id, record["image"]
        entry = self._known.get(key)
        if entry is not None and entry[0] == seen:
            self._known.move_to_end(key)
            return entry[1]
        process = Process(
            pid=pid,
            path=_path_of_record(record, pid),
            arguments=_arguments(record["arguments"][: record["arguments_length"]]),
            uid=uid,
            gid=gid,
            user=user_name(uid),
            started=record["started"],
            device=_device(record["device"]),
            inode=record["inode"],
            parents=tuple(_parents_of_record(record["parents"])),
            cgroup=_group_path(cgroup_id),
            cgroup_id=cgroup_id,
        )
        self._remember(key, seen, process)
        return process

    def of_pid(self, pid: int, started: int) -> Process:
        """The process that began at ``started`` (ns since boot), from /proc, where there is no record.

        When it has ended, it is as it was last seen here; never seen, only ``pid`` and ``started`` are known.
        """
        key, process = (pid, started), read_process(pid)
        if process is None or process.started != _ticks(started):
            if key not in self._known:
                return Process(pid=pid, started=started)
            self._known.move_to_end(key)
            return self._known[key][1]
        self._remember(key, None, process)
        return process

    def _remember(self, key: tuple[int, int], seen: object, process: Process) -> None:
        self._known[key] = seen, process
        self._known.move_to_end(key)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)


def _ticks(started: int) -> int:
    return started // TICK * TICK


def _read(pid: int, name: str, limit: int = -1) -> bytes:
    with Path(f"/proc/{pid}/{name}").open("rb") as file:
        return file.read(limit)


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on: the second, the name, may hold spaces and brackets."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if len(fields) < 20:
        raise ProcessLookupError(f"/proc/{pid}/stat is incomplete")
    return fields


def _started(pid: int) -> int:
    return int(_stat(pid)[19]) * TICK  # field 22


def _ancestors(pid: int) -> Iterator[int]:
    for _ in range(_PARENTS):
        try:
            pid = int(_stat(pid)[1])  # field 4
        except OSError:  # an ancestor that ends has just been replaced by its own; what is known is right
            return
        if pid == 0:
            return
        yield pid


def _user_and_group(pid: int) -> tuple[int, int]:
    """The real ones, as bpf_get_current_uid_gid() gives them."""
    fields = dict(line.split(b":", 1) for line in _read(pid, "status").splitlines() if b":" in line)
    return int(fields[b"Uid"].split()[0]), int(fields[b"Gid"].split()[0])


def _executable(pid: int) -> tuple[str, int, int]:
    """Path, device and inode of the executable; "" and 0 for a kernel thread, or where we may not look."""
    link = Path(f"/proc/{pid}/exe")
    try:
        path, file = str(link.readlink()), link.stat()
    except OSError:
        return "", 0, 0
    if not _is_at(file, Path(path)):
        path = path.removesuffix(_DELETED) if path.endswith(_DELETED) else _as_we_see_it(path, file)
        if _has_own_users(pid) and not _is_at(file, Path(path)):
            path = FOREIGN + path
    return path, file.st_dev, file.st_ino


def _has_own_users(pid: int) -> bool:
    """Whether a process is in another user namespace than we are, or may be."""
    try:
        return not os.path.samestat(*(Path(f"/proc/{one}/ns/user").stat() for one in (pid, "self")))
    except OSError:
        return True


def _as_we_see_it(path: str, file: os.stat_result) -> str:
    """A path from the root of another mount namespace, from ours: in a chroot the first goes further up."""
    parts = path.split("/")
    shorter = ("/" + "/".join(parts[first:]) for first in range(2, len(parts)))
    return next((one for one in shorter if _is_at(file, Path(one))), path)


def _is_at(file: os.stat_result, path: Path) -> bool:
    """Whether a file is (still) at a path: a program may be called "x (deleted)" without having been."""
    try:
        return os.path.samestat(file, path.stat())
    except OSError:
        return False


def _arguments(line: bytes) -> tuple[str, ...]:
    """A command line's arguments: each ends with a zero byte, which the last may lack."""
    return tuple(os.fsdecode(argument) for argument in line.removesuffix(b"\0").split(b"\0")) if line else ()


def _control_group(pid: int) -> tuple[str, int]:
    try:
        path = cgroup.of_process(pid)
        return _below_root(path), cgroup.id_of(path)
    except (OSError, ValueError):  # gone, or none of ours
        return "", 0


@lru_cache(maxsize=4096)
def _group_path(number: int) -> str:
    """The path of a control group below the root, or "" when it has gone or may not be looked up."""
    try:
        path = cgroup.path_of(number)
        return _below_root(path) if path is not None else ""
    except (OSError, ValueError):
        return ""


def _below_root(path: Path) -> str:
    below = str(path.relative_to(cgroup.root()))
    return "/" if below == "." else f"/{below}"


def _socket_inodes(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)  # noqa: PTH208 - there may be a million: no object for each
    except OSError:
        return
    for number in numbers:
        try:
            target = os.readlink(f"{folder}/{number}")  # noqa: PTH115
        except OSError:
            continue
        if target.startswith(_SOCKET):
            yield int(target[len(_SOCKET) : -1])


def _device(number: int) -> int:
    return os.makedev(number >> _MINOR_BITS, number & (1 << _MINOR_BITS) - 1)


def _parents_of_record(parents: tuple[int, ...]) -> Iterator[int]:
    for pid in parents:
        if pid == 0:
            return
        yield pid
        if pid == 1:  # nobody is above; what follows is from the place's last use
            return


def _is_of_record(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a path of this host leads to the very executable of a record."""
    try:
        file = path.stat()
    except (OSError, ValueError):
        return False
    whole = not record["truncated"]
    return whole and (file.st_dev, file.st_ino) == (_device(record["device"]), record["inode"])


def _path_of_record(record: Mapping[str, Any], pid: int) -> str:
    path = os.fsdecode(record["path"][record["path_start"] :])
    if record["foreign"]:
        return path if _is_of_record(Path(path), record) else FOREIGN + path
    if not record["truncated"]:
        return path
    found = _executable(pid)[0]
    try:
        same = _started(pid) == _ticks(record["started"])
    except OSError:
        same = False
    return found if same and found else PARTIAL + path
