"""Totals so far of every connection that lives in a socket, through an iterator (kernel/totals.bpf.c)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

from tidewaiter.kernel import objects
from tidewaiter.kernel.libbpf import check, check_pointer, library
from tidewaiter.kernel.loader import Kernel, LoadedObject
from tidewaiter.kernel.records import CONNECTION_SIZE

_READ = CONNECTION_SIZE * 512


class Totals:
    """The iterator over map ``sockets``; each `read` is one pass over it."""

    def __init__(self, kernel: Kernel) -> None:
        fds = {name: item.fd for name, item in kernel.maps.items()}
        self._object = LoadedObject(objects.TOTALS, kernel.mode, fds, {})
        # union bpf_iter_link_info { struct { __u32 map_fd; } map; }, and struct bpf_iter_attach_opts around it
        info = ctypes.create_string_buffer(struct.pack("<I", kernel.map("sockets").fd), 16)
        options = struct.pack("<QQII", 24, ctypes.addressof(info), 16, 0)
        self._link = check_pointer(
            library().bpf_program__attach_iter(
                self._object.program("tw_totals"), ctypes.create_string_buffer(options, 24)
            ),
            "attaching the iterator over connections",
        )

    def read(self) -> Iterator[bytes]:
        """struct tw_connection of each live connection, with the bytes it has carried so far."""
        fd = check(library().bpf_iter_create(library().bpf_link__fd(self._link)), "reading connections")
        rest = b""
        try:
            while data := os.read(fd, _READ):
                rest += data
                whole = len(rest) - len(rest) % CONNECTION_SIZE
                for at in range(0, whole, CONNECTION_SIZE):
                    yield rest[at : at + CONNECTION_SIZE]
                rest = rest[whole:]
        finally:
            os.close(fd)

    def close(self) -> None:
        """Ends the iterator."""
        library().bpf_link__destroy(self._link)
        self._object.close()
