"""Packet sockets (AF_PACKET), as far as the kernel half counts what goes through them (kernel/frames.bpf.c)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tidewaiter.kernel import objects
from tidewaiter.kernel.libbpf import check, check_pointer, library
from tidewaiter.kernel.loader import Kernel, LoadedObject


def attach(kernel: Kernel, cgroup: Path) -> None:
    """Counts, from now on, what programs of a control group send and receive by packet sockets; what is attached is
    pinned, and goes with the pins.

    Raises KernelError, where the kernel has no such tracepoints.
    """
    item = LoadedObject(objects.FRAMES, kernel.mode, {name: it.fd for name, it in kernel.maps.items()}, {})
    folder = kernel.pins / "frames"
    try:
        _set_scope(item, cgroup)
        folder.mkdir(exist_ok=True)
        for name, pointer in item.programs():
            link = check_pointer(library().bpf_program__attach(pointer), f"attaching {name}")
            try:
                check(library().bpf_link__pin(link, str(folder / name).encode()), f"pinning {name}")
            finally:
                library().bpf_link__destroy(link)  # the pin keeps it
    finally:
        item.close()


def _set_scope(item: LoadedObject, cgroup: Path) -> None:
    where = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        first, value = struct.pack("=I", 0), struct.pack("=i", where)
        check(library().bpf_map_update_elem(item.map_fd("scope"), first, value, 0), f"naming {cgroup}")
    finally:
        os.close(where)
