"""bpffs, the file system whose entries keep eBPF maps and links alive without a process.

systemd mounts it at boot; a machine without systemd, or a container, may have none. It is mounted then when it is
first needed, as bpftool and iproute2 do, and stays: others may have begun to use it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tidewaiter.kernel.libbpf import KernelError

BPFFS = Path("/sys/fs/bpf")
"""Where bpffs is expected, by us and by everybody (Documentation/bpf, libbpf's default)."""

_MOUNTS = Path("/proc/self/mounts")
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8  # MS_* of linux/mount.h


def is_mounted(where: Path = BPFFS) -> bool:
    """Whether a bpffs is mounted at this path, in this mount namespace (proc_mounts(5))."""
    return any(line.split(" ")[1:3] == [str(where), "bpf"] for line in _MOUNTS.read_text().splitlines())


def ensure(where: Path = BPFFS) -> None:
    """Mounts bpffs where none is. Raises KernelError with the remedy if that is refused (mount(2))."""
    if is_mounted(where):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(where), b"bpf", _NOSUID | _NODEV | _NOEXEC, b"mode=0700") != 0:
        code = ctypes.get_errno()
        raise KernelError(
            code, f"mounting bpffs: {os.strerror(code)}; as root: mount -t bpf bpf {where}", str(where)
        )
