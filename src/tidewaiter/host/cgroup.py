"""Control groups (version 2): found, made, named by the kernel's number, emptied and removed.

A control group is a directory; the facts are from the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from functools import cache
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PATIENCE = 0.002  # seconds between two attempts to remove a group
_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h: the handle is the 64-bit number of a kernfs node


@cache
def root() -> Path:
    """Where the control groups of version 2 are mounted: ``/sys/fs/cgroup``, or a folder of it.

    Raises FileNotFoundError when they are not mounted.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where)
    raise FileNotFoundError(
        "control groups (version 2) are not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


def create(name: str) -> Path:
    """Make a control group directly below the root and return its path.

    Raises FileExistsError when it is there, PermissionError without the right to.
    """
    path = root() / name
    path.mkdir()
    return path


def of_process(pid: int) -> Path:
    """The control group of a process. Raises FileNotFoundError when there is no such process."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        hierarchy, _, below = line.split(":", 2)
        if hierarchy == "0":
            return root() / below.removesuffix(" (deleted)").lstrip("/")
    raise FileNotFoundError(f"process {pid} is in no control group of version 2")


def id_of(path: Path) -> int:
    """The kernel's number of a control group, as bpf_get_current_cgroup_id() gives it: the inode number.

    Raises FileNotFoundError when it is not there.
    """
    return path.stat().st_ino


def path_of(number: int) -> Path | None:
    """The control group with this number, or None when it has gone (open_by_handle_at(2), kernfs)."""
    handle = struct.pack("=IiQ", 8, _FILEID_KERNFS, number)
    mount = os.open(root(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = _LIBC.open_by_handle_at(mount, handle, os.O_PATH | os.O_CLOEXEC)
        failure = ctypes.get_errno()
    finally:
        os.close(mount)
    if found < 0:
        if failure in {errno.ESTALE, errno.ENOENT}:
            return None
        raise OSError(failure, os.strerror(failure), f"control group {number}")
    try:
        return Path(f"/proc/self/fd/{found}").readlink()
    finally:
        os.close(found)


def pids(path: Path) -> list[int]:
    """The processes directly in a control group. Raises FileNotFoundError when it is not there."""
    return [int(line) for line in (path / "cgroup.procs").read_text().split()]


def kill(path: Path) -> None:
    """Send SIGKILL to every process in a control group and below, also to those being forked (Linux 5.14).

    It does not wait for them to end. Raises FileNotFoundError when the group is not there.
    """
    (path / "cgroup.kill").write_text("1")


def remove(path: Path, timeout: float = 5.0) -> None:
    """Kill what runs in a control group and below, wait until it has ended, and remove all of it.

    ``timeout`` is in seconds. Raises FileNotFoundError when the group is not there, TimeoutError when
    its processes do not end.
    """
    deadline = time.monotonic() + timeout
    while True:
        kill(path)  # each time: a process may have moved in since the last
        try:
            for directory, _, _ in os.walk(path, topdown=False):
                Path(directory).rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:  # EBUSY: a process is in it, perhaps ending
                raise
        else:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes in {path} do not end: {pids(path)}")
        time.sleep(_PATIENCE)
