"""The C library's memory, as far as a firewall with many connections cares."""

from __future__ import annotations

import ctypes
import os

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_BLOCK = 128 << 10  # with which glibc begins
_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def give_back_large_blocks() -> None:
    """Memory of 128 KiB and more goes back to the system as soon as it is freed, in this process from now on.

    That is how glibc begins. But with the first such block that is freed it takes all that are not larger out of its
    heap, where what a growing table leaves behind stays resident: 4 MB of 32 with 100,000 connections (mallopt(3),
    M_MMAP_THRESHOLD). Whoever has chosen otherwise, by the environment, has it; other C libraries do as they do.
    """
    if any(name in os.environ for name in _CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK)
