"""What a name costs: each reader on recorded bytes, DNS beside dnspython, and the table when it is full."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import dns.message
from harness import rounds, save, show

from tidewaiter.model.key import Protocol
from tidewaiter.model.packet import parse_packet
from tidewaiter.names.dns import Kind, MalformedMessage, Message, Question, Record, parse_message
from tidewaiter.names.first import First
from tidewaiter.names.table import Asker, Table
from tidewaiter.replay.capture import Capture

RECORDED = Path(__file__).parents[1] / "tests" / "names" / "recorded" / "names.pcap"
COUNT = 200
ADDRESSES = 15_000
REQUEST = b"GET / HTTP/1.1\r\nHost: www.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


def recorded() -> tuple[bytes, bytes, bytes]:
    """A DNS answer with aliases, a ClientHello, and the first datagram of a QUIC connection."""
    with RECORDED.open("rb") as file:
        packets = [parse_packet(data) for _, data in Capture(file)]
    answer = next(one.payload for one in packets if one.source_port == 53 and b"pop7" in one.payload)
    to_server = [one for one in packets if one.destination_port == 443 and one.payload]
    hello = next(one.payload for one in to_server if one.protocol == Protocol.TCP)
    initial = next(one.payload for one in to_server if one.protocol == Protocol.UDP)
    return answer, hello, initial


def hostile() -> bytes:
    """A message that costs as much as one may: names of 16 labels of their own, until the bound is reached."""
    name = b"\x01a" * 16 + b"\0"
    record = name + b"\0\x05\0\1\0\0\0\0" + len(name).to_bytes(2, "big") + name
    return b"\0\0\x80\0\0\0\0\x7f\0\0\0\0" + record * 127


def microseconds(work: Callable[[], object]) -> float:
    """How much of a processor a call takes."""
    begun = time.process_time()
    for _ in range(COUNT):
        work()
    return (time.process_time() - begun) / COUNT * 1e6


def first(protocol: int, data: bytes) -> Callable[[], object]:
    """Reads the first bytes of a connection."""
    return lambda: First(protocol).feed(data, 1)


def read_hostile(data: bytes) -> object:
    """The same, where it may be refused."""
    try:
        return parse_message(data)
    except MalformedMessage:
        return None


def answer_for(number: int) -> Message:
    """An answer that teaches one address, by one alias."""
    name, alias = f"host{number}.example.com", f"edge{number % 64}.example.net"
    address = ip_address(0x0A000000 + number)
    records = (Record(name, Kind.CNAME, 300, alias), Record(alias, Kind.A, 300, address))
    return Message(1, True, 0, False, (Question(name, Kind.A),), records)


def full_table() -> tuple[Table, float]:
    """A table that is nearly full, and the memory that it takes, in MB."""
    messages = [answer_for(number) for number in range(ADDRESSES)]
    askers = [Asker(1, f"/usr/bin/program{number}") for number in range(64)]
    tracemalloc.start()
    table = Table()
    for number, message in enumerate(messages):
        table.learn(askers[number % 64], message, 1)
    size = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return table, size


def main() -> None:
    """Medians of interleaved rounds, in microseconds of a processor a call."""
    answer, hello, initial = recorded()
    worst = hostile()
    table, size = full_table()
    asker, address, message = Asker(1, "/usr/bin/program7"), ip_address(0x0A000007), answer_for(7)
    works: dict[str, Callable[[], object]] = {
        "DNS answer, 2 aliases": lambda: parse_message(answer),
        "the same by dnspython": lambda: dns.message.from_wire(answer),
        f"DNS, hostile, {len(worst)} bytes": lambda: read_hostile(worst),
        f"ClientHello, {len(hello)} bytes": first(Protocol.TCP, hello),
        "QUIC Initial": first(Protocol.UDP, initial),
        "HTTP request": first(Protocol.TCP, REQUEST),
        "no name: a datagram": first(Protocol.UDP, b"x" * 100),
        "no name: a stream": first(Protocol.TCP, b"\0" * 100),
        f"table of {ADDRESSES:,}: learn": lambda: table.learn(asker, message, 1),
        f"table of {ADDRESSES:,}: find": lambda: table.find(asker, address, 1),
    }
    figures: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds()):
        for name, work in works.items():
            figures[name].append(microseconds(work))
    result = {name: statistics.median(values) for name, values in figures.items()}
    show(
        f"names, microseconds of a processor a call (the full table takes {size:.1f} MB)",
        ("what", "µs"),
        [(name, f"{value:.1f}") for name, value in result.items()],
    )
    save("names", {"table_megabytes": size, **result})


if __name__ == "__main__":
    main()
