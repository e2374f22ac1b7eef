"""The policy as the kernel decides by it: tw_decide() of kernel/policy.h, run on any connection (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from livelab import compile_bpf
from tidewaiter.kernel import objects
from tidewaiter.kernel.libbpf import check, library
from tidewaiter.kernel.loader import Kernel, LoadedObject
from tidewaiter.kernel.objects import Mode, ObjectSpec
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Facts

SOURCE = """
#include "policy.h"
static struct tw_connection seen;
SEC("tc") int tw_twin(struct __sk_buff *skb)
{
	__u32 local_known = 0;

	if (bpf_skb_load_bytes(skb, 16, &seen, sizeof(seen)) || bpf_skb_load_bytes(skb, 12, &local_known, 4))
		return -1;
	tw_decide(&seen, local_known);
	return (__u32)seen.verdict << 24 | (seen.rule & 0xffffff);
}
"""
NO_RULE = 0xFFFFFF
_OPTIONS = struct.Struct("<QQQIIQQIIIiIIII")  # struct bpf_test_run_opts, bpf/bpf.h
_RETVAL = 56
_NOBODY = 0xFFFFFFFF


class Judged(NamedTuple):
    """The bit of the rule that decided, or that says to ask; `NO_RULE` where the kernel cannot say."""

    bit: int
    verdict: Verdict


@dataclass(frozen=True)
class _Compiled(ObjectSpec):
    """An object that is not part of the package."""

    file: Path = Path()

    def path(self, mode: Mode) -> Path:
        return self.file


class KernelTwin:
    """The kernel's classifier over the maps of one kernel half."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        file = folder / "twin.bpf.o"
        if not file.exists():
            compile_bpf(file, SOURCE, includes=objects.DIRECTORY)
        fds = {name: item.fd for name, item in kernel.maps.items()}
        self._object = LoadedObject(_Compiled("twin", file=file), Mode.ENFORCE, fds, {})
        self._program = self._object.program_fd("tw_twin")
        self._programs = kernel.map("programs")
        layout = kernel.map("pending").value
        assert layout is not None
        self._layout = layout

    def decide(self, facts: Facts, *, local_known: bool) -> Judged:
        """What it says of a connection, before or after its local address is chosen."""
        number = self._programs.get(facts.program.encode().rjust(512, b"\0"))
        connection = self._layout.pack(
            {
                "owner_uid": facts.uid & _NOBODY,
                "owner_program": int.from_bytes(number, "little") if number else 0,
                "direction": int(facts.direction),
                "family": facts.remote.version,
                "protocol": facts.protocol,
                "local": facts.local.packed.ljust(16, b"\0"),
                "remote": facts.remote.packed.ljust(16, b"\0"),
                "local_port": facts.local_port,
                "remote_port": facts.remote_port,
            }
        )
        data = bytes(12) + struct.pack("<I", local_known) + connection
        packet = ctypes.create_string_buffer(data, len(data))
        options = ctypes.create_string_buffer(
            _OPTIONS.pack(_OPTIONS.size, ctypes.addressof(packet), 0, len(data), 0, *(0,) * 10), _OPTIONS.size
        )
        check(library().bpf_prog_test_run_opts(self._program, options), "running the classifier")
        (found,) = struct.unpack_from("<I", options, _RETVAL)
        assert found != _NOBODY
        return Judged(found & NO_RULE, Verdict(found >> 24))

    def close(self) -> None:
        self._object.close()


@contextmanager
def twin_of(kernel: Kernel, folder: Path) -> Iterator[KernelTwin]:
    """The classifier of a kernel half; what is compiled is kept in a folder."""
    twin = KernelTwin(kernel, folder)
    try:
        yield twin
    finally:
        twin.close()
