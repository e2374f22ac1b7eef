"""The links by which our programs are attached, held open: seen when others detach or unpin them, and made anew."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import NamedTuple

from tidewaiter.kernel.attached import ATTACH_TYPES, in_the_way
from tidewaiter.kernel.libbpf import KernelError, check, library, refusal

_INFO = struct.Struct("=4xIIxxxxQI")  # struct bpf_link_info: type; id, program; control group, place
_INFO_SIZE = 128


class _Link(NamedTuple):
    program: int
    cgroup: int
    place: int


class Links:
    """The pinned links of one firewall. Held open here, so that removing a pin detaches nothing while we live."""

    def __init__(self, pins: Path, cgroup: Path) -> None:
        """Raises KernelError if a pin cannot be opened."""
        self._pins, self._cgroup = pins / "links", cgroup
        self._fds: dict[str, int] = {}
        for path in sorted(self._pins.iterdir()):
            self._fds[path.name] = _open(path)

    def lost(self) -> list[str]:
        """The programs that are not attached any more, or whose pin is gone. A few microseconds each."""
        return [name for name in self._fds if not self.attached(name) or not (self._pins / name).exists()]

    def attached(self, name: str) -> bool:
        """Whether a program is still attached: others may detach it by its link's number."""
        return _read(self._fds[name]).cgroup != 0

    def repair(self, name: str) -> None:
        """Attaches a program again if need be, and pins it. Raises KernelError, which names who is in the way."""
        pin = self._pins / name
        if not self.attached(name):
            made = self._attach(name)
            os.close(self._fds[name])
            self._fds[name] = made
            pin.unlink(missing_ok=True)
        pin.parent.mkdir(parents=True, exist_ok=True)
        check(library().bpf_obj_pin(self._fds[name], str(pin).encode()), f"pinning {name}")

    def _attach(self, name: str) -> int:
        link = _read(self._fds[name])
        program = check(library().bpf_prog_get_fd_by_id(link.program), f"finding {name}")
        try:
            where = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY)
            try:
                made: int = library().bpf_link_create(program, where, link.place, None)
            finally:
                os.close(where)
        finally:
            os.close(program)
        if made < 0:
            code = ctypes.get_errno()
            why = in_the_way(self._cgroup, name) if code == errno.EPERM else ""
            raise KernelError(code, f"{refusal(code, f'attaching {name} to {self._cgroup}').strerror}{why}")
        return made

    def close(self) -> None:
        """Closes our handles; what is pinned stays attached."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def standing(pins: Path) -> bool:
    """Whether every program that we attach is attached and pinned."""
    for name in ATTACH_TYPES:
        try:
            fd = _open(pins / "links" / name)
        except KernelError:
            return False
        try:
            if _read(fd).cgroup == 0:
                return False
        finally:
            os.close(fd)
    return True


def _open(path: Path) -> int:
    return check(library().bpf_obj_get(str(path).encode()), f"opening link {path.name}")


def _read(fd: int) -> _Link:
    """A link as the kernel has it; the control group is 0 when it is detached, or its group removed."""
    info = ctypes.create_string_buffer(_INFO_SIZE)
    size = ctypes.c_uint32(_INFO_SIZE)
    check(library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)), "reading a link")
    _, program, cgroup, place = _INFO.unpack_from(info)
    return _Link(program, cgroup, place)
