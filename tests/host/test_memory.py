"""host/memory.py: large blocks go back to the system. In processes of their own, since it is for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tidewaiter.host import install, memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they do")

SECOND_BLOCK = """
import ctypes, sys
from tidewaiter.host.memory import give_back_large_blocks

class Numbers(ctypes.Structure):  # struct mallinfo2, <malloc.h>
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Numbers
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if "call" in sys.argv:
    give_back_large_blocks()
libc.free(libc.malloc(1 << 20))
before = libc.mallinfo2().hblks
assert libc.malloc(1 << 20)
print(libc.mallinfo2().hblks - before)  # blocks that come from the system each by itself, and go back so
"""


def second_block(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_BLOCK, *words],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in memory._CHOSEN} | environment,
    )
    return done.stdout.strip()


def test_a_large_block_is_one_of_the_systems_though_another_was_freed() -> None:
    assert second_block() == "0", "then this module is not needed any more"
    assert second_block("call") == "1"


def test_whoever_has_chosen_otherwise_has_it() -> None:
    assert second_block("call", MALLOC_MMAP_THRESHOLD_=str(4 << 20)) == "0"


def test_it_is_done_when_a_firewall_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def done() -> None:
        raise InterruptedError

    monkeypatch.setattr(install, "give_back_large_blocks", done)
    with pytest.raises(InterruptedError):
        install.install("x", None, None, None, fail_open=False, events=False)  # type: ignore[arg-type]
