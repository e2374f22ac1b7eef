"""What this kernel offers of what we need, found out by trying, never by its version number.

Here are the probes that need nothing but the kernel itself; those that need a control group or a network
namespace to try in are in tidewaiter.host.doctor. Nothing that a probe makes outlives it.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tidewaiter.kernel import bpffs, objects
from tidewaiter.kernel.libbpf import check, library
from tidewaiter.kernel.loader import LoadedObject
from tidewaiter.kernel.objects import Mode, ObjectSpec

AS_ROOT = "run it as root (sudo)"
"""What to do about a lack of privileges."""

_BTF = Path("/sys/kernel/btf/vmlinux")
_ARRAY, _RING = 2, 27  # enum bpf_map_type (linux/bpf.h)
_REFUSED = frozenset({errno.EPERM, errno.EACCES})


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that is there or not.

    ``purpose`` says what we need it for, ``required`` whether nothing works without it. ``detail`` is what
    the kernel (or the machine) said: the reason when it is not there. ``remedy`` is what to do then, else "".
    """

    name: str
    purpose: str
    required: bool
    present: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """How to find out: ``attempt`` returns a detail, or "", when the feature is there, else it raises."""

    name: str
    purpose: str
    remedy: str
    attempt: Callable[[], str]
    required: bool = True

    def run(self, *, privileged: bool) -> Feature:
        """Try it. Without privileges, a refusal says nothing of the kernel: the remedy is to have them."""
        try:
            return Feature(self.name, self.purpose, self.required, present=True, detail=self.attempt())
        except OSError as error:
            refused = error.errno in _REFUSED and not privileged
            reason, remedy = _reason(error, brief=refused), AS_ROOT if refused else self.remedy
        except (ValueError, RuntimeError, subprocess.SubprocessError) as error:
            reason, remedy = str(error), self.remedy
        return Feature(self.name, self.purpose, self.required, present=False, detail=reason, remedy=remedy)


def _reason(error: OSError, *, brief: bool) -> str:
    if brief and error.errno is not None:
        return os.strerror(error.errno)
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def run(probes: Iterable[Probe], *, privileged: bool) -> Iterator[Feature]:
    """The result of each probe, in their order."""
    return (probe.run(privileged=privileged) for probe in probes)


def kernel_features(*, privileged: bool) -> list[Feature]:
    """All features of this module. ``privileged``: whether this process may do what a firewall must."""
    with ExitStack() as stack:
        layers = _Layers(stack)
        probes = [*_BASICS, *map(layers.probe, objects.ALL), layers.packet_namespace]
        return list(run(probes, privileged=privileged))


def _libbpf() -> str:
    library()
    return ""


def _make_map(kind: int, key_size: int, value_size: int, entries: int) -> str:
    made = library().bpf_map_create(kind, b"tw_probe", key_size, value_size, entries, None)
    os.close(check(made, "making an eBPF map"))
    return ""


def _btf() -> str:
    return f"{_BTF.stat().st_size // 1024} KiB"


def _bpffs() -> str:
    """Pins a map and takes it away again."""
    bpffs.ensure()
    pin = bpffs.BPFFS / f"tw_probe_{os.getpid()}"
    made = check(library().bpf_map_create(_ARRAY, b"tw_probe", 4, 8, 1, None), "making an eBPF map")
    try:
        check(library().bpf_obj_pin(made, os.fsencode(pin)), f"pinning a map in {bpffs.BPFFS}")
        pin.unlink()
    finally:
        os.close(made)
    return ""


_BASICS = (
    Probe("libbpf", "loads our eBPF programs", "apt install libbpf1 (Debian 12, Ubuntu 24.04)", _libbpf),
    Probe(
        "bpf(2)",
        "eBPF programs and maps",
        "use a kernel with CONFIG_BPF_SYSCALL, and a container that is allowed bpf(2)",
        lambda: _make_map(_ARRAY, 4, 8, 1),
    ),
    Probe("BTF", "fits our programs to this kernel", "use a kernel with CONFIG_DEBUG_INFO_BTF", _btf),
    Probe(
        "ring buffer",
        "how the kernel half tells us things",
        "use a kernel with BPF_MAP_TYPE_RINGBUF (5.8 and later)",
        lambda: _make_map(_RING, 0, 0, os.sysconf("SC_PAGESIZE")),
    ),
    Probe(
        "bpffs",
        "keeps what is decided in force without us",
        f"mount -t bpf bpf {bpffs.BPFFS}",
        _bpffs,
    ),
)

_PURPOSES = {
    "bind": "who waits on which port",
    "stream": "beginning and end of TCP connections",
    "packet": "the gate for packets, and byte counts",
    "datagram": "who sends each UDP datagram",
    "connect": "who connects, and refusing it at once",
    "hold": "asks which packets must wait",
    "redirect": "sends flows to a port of this host",
    "totals": "bytes of connections that are open",
    "identity": "never holds our own packets",
    "frames": "names and counts what goes past us by packet sockets",
}
_OPTIONAL = {
    "frames": "nothing to do: it comes with a newer kernel (6.3 and later); without it such programs are only named"
}


class _Layers:
    """Loads layers, which share their maps as in the product, and keeps them until the end of ``stack``."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._shared: dict[str, int] = {}

    def probe(self, spec: ObjectSpec) -> Probe:
        """Whether the verifier takes a layer, in each of its variants."""
        name = f"layer: {spec.layer}"
        newer = "use a newer kernel (5.17 or later, for bpf_loop); if it is one, report this with the reason"
        remedy = _OPTIONAL.get(spec.layer, newer)

        def attempt() -> str:
            for mode in Mode if spec.variants else (Mode.ENFORCE,):
                self._load(spec, mode, {})
            return ""

        return Probe(name, _PURPOSES[spec.layer], remedy, attempt, required=spec.layer not in _OPTIONAL)

    @property
    def packet_namespace(self) -> Probe:
        """Whether a program may ask in which network namespace a packet is."""
        (packet,) = (spec for spec in objects.CGROUP_OBJECTS if spec.layer == "packet")
        return Probe(
            "packet namespace",
            "the gate also for packets without a socket",
            "nothing to do: it comes with a newer kernel (6.15 and later)",
            lambda: self._load(packet, Mode.ENFORCE, {"tw_packet_has_namespace": 1}),
            required=False,
        )

    def _load(self, spec: ObjectSpec, mode: Mode, constants: dict[str, int]) -> str:
        self._stack.callback(LoadedObject(spec, mode, self._shared, constants).close)
        return ""
