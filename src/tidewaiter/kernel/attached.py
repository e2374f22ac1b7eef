"""Which programs others have attached to a cgroup and its ancestors, for errors that name what is in the way."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from tidewaiter.kernel.libbpf import library

# enum bpf_attach_type of include/uapi/linux/bpf.h, for the programs that we attach
ATTACH_TYPES = {
    "tw_ingress": 0,
    "tw_egress": 1,
    "tw_create": 2,
    "tw_socket_operation": 3,
    "tw_connect4": 10,
    "tw_connect6": 11,
    "tw_bind4": 12,
    "tw_bind6": 13,
    "tw_sendmsg4": 14,
    "tw_sendmsg6": 15,
    "tw_release": 34,
}
_ALLOW_MULTI = 2


def attached(cgroup: Path, attach_type: int) -> tuple[list[int], bool]:
    """Ids of the programs attached to a cgroup itself, and whether they let others in beside them."""
    ids = (ctypes.c_uint32 * 64)()
    count, flags = ctypes.c_uint32(64), ctypes.c_uint32()
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if library().bpf_prog_query(fd, attach_type, 0, ctypes.byref(flags), ids, ctypes.byref(count)) < 0:
            return [], True
    finally:
        os.close(fd)
    return list(ids[: count.value]), bool(flags.value & _ALLOW_MULTI)


def program_name(number: int) -> str:
    """The name of a loaded program, or its number if it cannot be asked."""
    fd = library().bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return f"number {number}"
    info = ctypes.create_string_buffer(256)
    try:
        if library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(ctypes.c_uint32(256))) < 0:
            return f"number {number}"
    finally:
        os.close(fd)
    return struct.unpack_from("16s", info, 64)[0].split(b"\0")[0].decode() or f"number {number}"


def in_the_way(cgroup: Path, program: str) -> str:
    """A sentence that names the foreign programs that keep ``program`` out of a cgroup, or ""."""
    for place in (cgroup, *cgroup.parents):
        if not (place / "cgroup.procs").exists():
            break
        ids, multi = attached(place, ATTACH_TYPES[program])
        if ids and not multi:
            names = ", ".join(program_name(number) for number in ids)
            return f"; in the way is {names}, attached to {place} without letting others in: stop what attached it"
    return ""
