"""Runs `tidewaiter ARGUMENT…` as systemd would by a unit file: its user, capabilities, system calls, view of the files.

    python likeunit.py UNIT DESCRIPTOR [ARGUMENT…]

DESCRIPTOR is the listening socket to pass, or ``-``. What a unit asks for and is not done here: PrivateTmp, ProtectHome
and PrivateDevices, which would hide the test's own files. The command runs in this process, whose modules are loaded
before the user changes: `nobody` may not be able to read the checkout.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import re
import socket
import struct
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

Unit = dict[str, list[str]]
"""Of each setting the values, in the order in which they stand."""

HEADER = Path("/usr/include/linux/capability.h")
_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_MOUNT_SETATTR = 442  # on every architecture
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_CLONE_NEWNS, _CLONE_NEWNET, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20000, 0x40000000, 1 << 12, 1 << 14, 1 << 19
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 24, 38, 65
_ALLOW, _REFUSE, _EQUAL = 0x7FFF0000, 0x00050000 | errno.EPERM, 4  # <seccomp.h>


class _Compare(ctypes.Structure):
    """``struct scmp_arg_cmp`` of <seccomp.h>."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def parse(text: str) -> Unit:
    """The settings of a unit file."""
    found: Unit = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found[name].append(value)
    return found


def words(unit: Unit, name: str) -> list[str]:
    """All that a setting lists."""
    return [word for value in unit[name] for word in value.split()]


@cache
def group_of_calls(name: str) -> frozenset[str]:
    """The system calls of one of systemd's groups, as `systemd-analyze syscall-filter` tells."""
    listed = subprocess.check_output(["systemd-analyze", "syscall-filter", name], text=True).splitlines()[1:]
    entries = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return frozenset(call for entry in entries for call in _expand(entry))


def _expand(entry: str) -> frozenset[str]:
    return group_of_calls(entry) if entry.startswith("@") else frozenset([entry])


def allowed_calls(unit: Unit) -> set[str]:
    """What SystemCallFilter= leaves (systemd.exec(5)); what RestrictNamespaces=yes refuses is taken away."""
    allowed: set[str] = set(group_of_calls("@default"))
    for value in unit["SystemCallFilter"]:
        named = {call for entry in value.removeprefix("~").split() for call in _expand(entry)}
        allowed = allowed - named if value.startswith("~") else allowed | named
    assert unit["RestrictNamespaces"] == ["yes"]
    return allowed - {"setns", "unshare"}


def capability_numbers() -> dict[str, int]:
    """Of linux/capability.h."""
    found = re.findall(r"^#define (CAP_\w+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def written_to(unit: Unit) -> list[Path]:
    """What ReadWritePaths= leaves writable. What has a "-" may be missing; else not even ExecStartPre=+ would run.

    ProtectKernelTunables= has its own list of places below /sys: one that is on it stays read-only though it is named.
    """
    named = words(unit, "ReadWritePaths")
    assert unit["ProtectKernelTunables"] != ["yes"] or not {"/sys", "/sys/fs/bpf"} & {
        name.lstrip("-") for name in named
    }
    paths = [Path(name.removeprefix("-")) for name in named]
    return [path for name, path in zip(named, paths, strict=True) if path.exists() or name[0] != "-"]


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mounts(unit: Unit) -> None:
    """Everything can only be read (ProtectSystem=strict and its like), but what ReadWritePaths= names."""
    assert unit["ProtectSystem"] == ["strict"]
    private = unit["PrivateNetwork"] == ["yes"]
    _check(_LIBC.unshare(_CLONE_NEWNS | (_CLONE_NEWNET if private else 0)))
    try:
        _check(_LIBC.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: in a chroot, whose root is no mount
            raise
        return
    writable = [Path("/run", name) for name in unit["RuntimeDirectory"]]
    writable += written_to(unit)
    for path in writable:
        name = os.fsencode(path)
        _check(_LIBC.mount(name, name, None, ctypes.c_ulong(_MS_BIND | _MS_REC), None))
    _set_read_only(Path("/"), True)
    for path in writable:
        _set_read_only(path, False)


def _set_read_only(path: Path, wanted: bool) -> None:
    attributes = struct.pack("=4Q", _MOUNT_ATTR_RDONLY * wanted, _MOUNT_ATTR_RDONLY * (not wanted), 0, 0)
    where = ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(_AT_RECURSIVE)
    _check(_LIBC.syscall(_SYS_MOUNT_SETATTR, *where, attributes, ctypes.c_size_t(len(attributes))))


def _credentials(unit: Unit) -> None:
    kept = set(words(unit, "CapabilityBoundingSet"))
    numbers = capability_numbers()
    if unit["User"]:
        user = pwd.getpwnam(unit["User"][0])
        groups = [grp.getgrnam(name).gr_gid for name in words(unit, "SupplementaryGroups")]
        os.setgroups(groups)
    for name, number in numbers.items():
        if name not in kept:
            _LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)
    if unit["User"]:
        gid = grp.getgrnam(unit["Group"][0]).gr_gid
        os.setresgid(gid, gid, gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    assert unit["NoNewPrivileges"] == ["yes"]
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))
    bits = sum(1 << numbers[name] for name in kept)
    sets = [bits & 0xFFFFFFFF, bits & 0xFFFFFFFF, 0, bits >> 32, bits >> 32, 0]
    _check(_LIBC.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *sets)))


def _system_calls(allowed: set[str], families: list[str]) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_REFUSE)))
    for name in allowed - {"socket"}:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else it is none of this architecture
            _check(seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0))
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        first = _Compare(0, _EQUAL, getattr(socket, family), 0)
        _check(seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 1, first))
    assert seccomp.seccomp_load(context) == 0


def main() -> None:
    """As the module says."""
    unit = parse(Path(sys.argv[1]).read_text())
    given, arguments = sys.argv[2], sys.argv[3:]
    from tidewaiter.cli import main as tidewaiter  # noqa: PLC0415 - only here: who parses units needs it not

    for name in ("driver", "run"):
        command = tidewaiter.get_command(None, name)  # type: ignore[arg-type] # it is loaded
        assert command is not None
    allowed = allowed_calls(unit)
    if given != "-":
        os.dup2(int(given), 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    _mounts(unit)
    _credentials(unit)
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    if _LIBC.prctl(_PR_SET_MDWE, ctypes.c_ulong(1), 0, 0, 0) != 0:
        assert ctypes.get_errno() == errno.EINVAL, "a kernel before 6.3 does not know it"
    _system_calls(allowed, words(unit, "RestrictAddressFamilies"))
    tidewaiter(arguments, prog_name="tidewaiter")


if __name__ == "__main__":
    main()
