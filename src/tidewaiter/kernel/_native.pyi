"""What runs for each packet in user space, in C (native/)."""

from mmap import mmap

def parse(packet: bytes, /) -> tuple[int, int, int, int, int, int, int, int, int, bytes, bytes]:
    """Version, protocol, flags, TCP flags, offsets of transport and payload, ports, length, source, destination.

    Fields of struct tw_headers (headers.h). Raises ValueError for what is no IP packet with whole headers.
    """

def receive(fd: int, namespace: int, microseconds: int, /) -> list[tuple[int, int, bytes, bytes]]:
    """At most 32 packets that wait on a queue socket: packet id, hook, flow, payload.

    Does not sleep; when nothing is there it tries again for so many microseconds, and other threads and
    processes that want the processor go first. Only one thread may call it. ``flow`` names the packet's connection
    in the namespace of that number: 42 bytes as in struct tw_connection, or b"" for one that cannot be parsed.
    Raises OSError.
    """

def answer(fd: int, queue: int, verdicts: list[tuple[int, int]], /) -> None:
    """Sends netfilter verdicts (packet id, NF_ACCEPT or NF_DROP) in batches. Raises OSError."""

def drain(control: mmap, ring: mmap, limit: int, /) -> list[bytes]:
    """At most ``limit`` records of an eBPF ring buffer, given its two mappings."""

def put(fd: int, key: bytes, value: bytes, flags: int, /) -> None:
    """Sets an entry of an eBPF map; sizes must be the map's. ``flags``: BPF_ANY 0, BPF_EXIST 2. Raises OSError."""
