"""Network namespaces: made, named, removed, and code or commands run inside one.

A thread has a network namespace of its own, so work is done inside one by a short-lived thread that
enters it (setns(2)) and ends; the sockets and processes that it made stay there. Names are files in
``/run/netns`` that ip-netns(8) knows too. ``ip netns exec`` is not used: it mounts a fresh ``/sys``,
which hides bpffs and the control groups.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

NAMED = Path("/run/netns")
"""Where named namespaces are bound, the place of ip-netns(8)."""

_OWN = Path("/proc/thread-self/ns/net")
_T = TypeVar("_T")
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]

# <linux/sched.h>, <linux/mount.h>, <asm-generic/socket.h>; Python knows them from 3.12 on or not at all.
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 1 << 12
_MS_REC = 1 << 14
_MS_SLAVE = 1 << 19
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_SO_NETNS_COOKIE = 71

# The program takes its place in the control group before it becomes itself: from its first instruction
# it is where its firewall looks. A group that has gone stops it.
_JOIN = 'echo 0 > "$1" && shift && exec "$@"'


def path_of(name: str) -> Path:
    """The file that stands for the namespace called ``name``, whether it is there or not.

    Raises ValueError for a name that cannot be a file name.
    """
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise ValueError(f"{name!r} cannot be the name of a network namespace")
    return NAMED / name


def names() -> list[str]:
    """The names of all named network namespaces, sorted."""
    return sorted(entry.name for entry in NAMED.iterdir()) if NAMED.is_dir() else []


def create(name: str) -> Path:
    """Make an empty network namespace (its ``lo`` is down), bind it to a name and return its path.

    Raises FileExistsError when the name is taken and PermissionError without CAP_SYS_ADMIN.
    """
    path = path_of(name)
    _share_named()
    path.touch(mode=0o444, exist_ok=False)
    try:
        _in_thread(lambda: _bind_new(path))
    except OSError:
        path.unlink()
        raise
    return path


def delete(name: str) -> None:
    """Remove a name. The namespace itself ends with the last process or socket in it.

    Raises FileNotFoundError when there is no such name.
    """
    path = path_of(name)
    try:
        _check(_LIBC.umount2(os.fsencode(path), _MNT_DETACH), path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: a file that nothing is bound to, left by a crash
            raise
    path.unlink()


def run_inside(namespace: Path, function: Callable[[], _T]) -> _T:
    """Call ``function`` in a thread that has entered ``namespace``; return or raise what it does.

    Sockets and processes that it makes belong to that namespace for good. Raises FileNotFoundError when
    the namespace is not there, PermissionError without CAP_SYS_ADMIN unless it is our own.
    """

    def work() -> _T:
        _enter(namespace)
        return function()

    return _in_thread(work)


def cookie(namespace: Path) -> int:
    """The kernel's 64-bit number of a network namespace, never used twice until reboot.

    It is what eBPF programs get from bpf_get_netns_cookie() (SO_NETNS_COOKIE, socket(7), Linux 5.14).
    """

    def read() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            (number,) = struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
        return int(number)

    return run_inside(namespace, read)


def popen(
    argv: Sequence[str | os.PathLike[str]],
    *,
    namespace: Path,
    cgroup: Path | None = None,
    files: Mapping[Path, Path] | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start a command inside a network namespace, and below ``cgroup`` when one is given.

    ``files`` maps a path to the file that the command shall see there instead (``/etc/resolv.conf``, as
    ip-netns(8) does with ``/etc/netns``): it gets a mount namespace of its own, where everything else
    stays in sight. ``options`` are those of subprocess.Popen; the process id is the command's own. With a
    cgroup, a command that is not there ends with status 127, as in a shell; otherwise FileNotFoundError is
    raised. To run it as another user, let the command be ``setpriv`` or ``runuser``.
    """
    command = list(argv)
    if cgroup is not None:
        command = ["/bin/sh", "-c", _JOIN, "tidewaiter", cgroup / "cgroup.procs", *command]

    def start() -> subprocess.Popen[Any]:
        if files:
            _cover(files)
        return subprocess.Popen(command, **options)

    return run_inside(namespace, start)


def _in_thread(function: Callable[[], _T]) -> _T:
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()


def _check(result: int, subject: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(subject))


def _mount(target: Path, flags: int, source: Path | None = None) -> None:
    origin = b"none" if source is None else os.fsencode(source)
    _check(_LIBC.mount(origin, os.fsencode(target), None, flags, None), target)


def _enter(namespace: Path) -> None:
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        here = os.path.samestat(os.fstat(handle), _OWN.stat())
        if not here:  # to stay where it is, a thread needs no privilege
            _check(_LIBC.setns(handle, _CLONE_NEWNET), namespace)
    finally:
        os.close(handle)


def _bind_new(path: Path) -> None:
    _check(_LIBC.unshare(_CLONE_NEWNET), path)
    _mount(path, _MS_BIND, _OWN)


def _share_named() -> None:
    """Make /run/netns a shared mount, so that a name removed here vanishes in every mount namespace.

    ip-netns(8) does the same under the same lock. Were it left to be first, it would bind the folder over
    itself and the names made before could not be removed.
    """
    NAMED.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = os.open(NAMED, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            _mount(NAMED, _MS_SHARED | _MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: it is a plain folder still
                raise
            _mount(NAMED, _MS_BIND | _MS_REC, NAMED)
            _mount(NAMED, _MS_SHARED | _MS_REC)
    finally:
        os.close(folder)


def _cover(files: Mapping[Path, Path]) -> None:
    """Give this thread mounts of its own and lay each file over the path that it stands in for."""
    root = Path("/")
    _check(_LIBC.unshare(_CLONE_NEWNS), root)
    try:
        _mount(root, _MS_SLAVE | _MS_REC)  # what we cover must not show outside
    except OSError as error:
        # EINVAL: in a chroot, whose root is no mount. Whoever made it has chosen what is shared.
        if error.errno != errno.EINVAL:
            raise
    for target, source in files.items():
        _mount(target, _MS_BIND, source)
