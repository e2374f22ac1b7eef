"""The capabilities that a firewall needs: whether this process has them, and giving all others away."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

# include/uapi/linux/capability.h
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Without these it does not start."""

USEFUL = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19}
"""Without these it knows less of who is there."""

PURPOSES = {
    "CAP_BPF": "loads eBPF programs and makes maps",
    "CAP_PERFMON": "lets eBPF programs see who a process is",
    "CAP_NET_ADMIN": "attaches programs, holds packets",
    "CAP_NET_RAW": "lets a blocked program notice at once",
    "CAP_SYS_ADMIN": "enters network namespaces; the lab",
    "CAP_DAC_READ_SEARCH": "names systemd units and containers",
    "CAP_SYS_PTRACE": "names programs that ran before us",
}

ENTERING = "CAP_SYS_ADMIN"
"""The one of `NEEDED` that is for other network namespaces than our own."""

_ALL = range(64)

# <linux/prctl.h>, and the version of capset(2) whose sets have 64 bits
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 23, 24, 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def effective_capabilities() -> int:
    """The effective capabilities of this process, as bits (proc(5), CapEff)."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def missing_privileges(*, entering: bool = True) -> str:
    """One sentence about what is missing, or "". ``entering``: other network namespaces will be entered."""
    have = effective_capabilities()
    needed = {name: bit for name, bit in NEEDED.items() if entering or name != ENTERING}
    missing = [name for name, bit in needed.items() if not have >> bit & 1]
    if not missing:
        return ""
    return f"This process lacks {', '.join(missing)}: run it as root (sudo) to see live traffic."


def drop_privileges(*, entering: bool = True) -> None:
    """Gives away every capability but `NEEDED` and `USEFUL`, of this process and of all that it starts, for good.

    Without ``entering`` CAP_SYS_ADMIN goes too. What stays is inherited by the programs that we start (iptables),
    whoever our user is; none of them can gain more (no_new_privs). The sets belong to a thread and are copied to
    those that it makes (capabilities(7)): to be called before the first one. Raises PermissionError.
    """
    names = {name: bit for name, bit in (NEEDED | USEFUL).items() if entering or name != ENTERING}
    kept = sum(1 << bit for bit in names.values()) & effective_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for bit in _ALL:
        if not kept >> bit & 1 and _LIBC.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0) == 1:
            # Without CAP_SETPCAP it stays as it is; no_new_privs keeps it from mattering.
            _LIBC.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0)
    sets = [kept & 0xFFFFFFFF] * 3 + [kept >> 32] * 3  # effective, permitted, inheritable
    _check(_LIBC.capset(struct.pack("=Ii", _VERSION_3, 0), struct.pack("=6I", *sets)))
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for bit in _ALL:
        if kept >> bit & 1:
            _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, bit)


def _prctl(option: int, first: int, second: int = 0) -> None:
    _check(_LIBC.prctl(option, first, second, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"giving capabilities away: {os.strerror(number)}")
