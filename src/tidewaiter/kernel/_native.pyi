"""What runs for each packet in user space, in C (native/)."""

from collections.abc import Mapping
from mmap import mmap
from typing import Any

from tidewaiter.model.connection import Connection
from tidewaiter.model.process import Process

def parse(packet: bytes, /) -> tuple[int, int, int, int, int, int, int, int, int, bytes, bytes]:
    """Version, protocol, flags, TCP flags, offsets of transport and payload, ports, length, source, destination.

    Fields of struct tw_headers (headers.h). Raises ValueError for what is no IP packet with whole headers.
    """

def receive(fd: int, namespace: int, microseconds: int, /) -> list[tuple[int, int, bytes, bytes, int]]:
    """At most 32 packets that wait on a queue socket: packet id, hook, flow, payload, index of the interface.

    Does not sleep; when nothing is there it tries again for so many microseconds, and other threads and
    processes that want the processor go first. Only one thread may call it. ``flow`` names the packet's connection
    in the namespace of that number: 42 bytes as in struct tw_connection, or b"" for one that cannot be parsed.
    Raises OSError.
    """

def answer(fd: int, queue: int, verdicts: list[tuple[int, int]], /) -> None:
    """Sends netfilter verdicts (packet id, NF_ACCEPT or NF_DROP) in batches. Raises OSError."""

def drain(control: mmap, ring: mmap, limit: int, /) -> list[bytes]:
    """At most ``limit`` records of an eBPF ring buffer, given its two mappings."""

def hear(
    control: mmap,
    ring: mmap,
    limit: int,
    held: dict[bytes, tuple[bytes, int]],
    sighted: dict[bytes, Any],
    known: Mapping[bytes, object],
    quiet: bool,
    room: int,
    /,
) -> list[bytes]:
    """The same for events; those of most new connections are put in their places. See `tidewaiter.kernel.ring.hear`."""

def connection(
    kind: type[Connection],
    flow: bytes,
    data: bytes,
    processes: dict[bytes, Process],
    rules: tuple[str, ...],
    /,
) -> Connection | None:
    """`tidewaiter.kernel.records.connection` of struct tw_connection; None if its process is not among ``processes``.

    Those are by `tidewaiter.kernel.records.owner`. Raises ValueError for bytes that are no such structure.
    """

def remember(fd: int, data: bytes, rule: int, verdict: int, tier: int, /) -> bool:
    """Puts struct tw_connection with this answer into map `pending`, under its socket, if there is a question there.

    Returns whether there was. Raises OSError, and ValueError for bytes that are no such structure.
    """

def put(fd: int, key: bytes, value: bytes, flags: int, /) -> None:
    """Sets an entry of an eBPF map; sizes must be the map's. ``flags``: BPF_ANY 0, BPF_EXIST 2. Raises OSError."""
