"""kernel/headers.h against model/packet.py, its reference, in user space and in the kernel."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings

from strategies import FUZZ, Made, damaged_packets, packets, random_bytes
from tidewaiter.model.key import Protocol
from tidewaiter.model.packet import MalformedPacket, TcpFlag, build_ip, build_tcp, build_udp, parse_packet

HARNESS = Path(__file__).with_name("headers_harness.c")
KERNEL = Path(__file__).parents[2] / "src" / "tidewaiter" / "kernel"
RECORD = struct.Struct("=iBBBBHHHHI16s16s")
MALFORMED = RECORD.pack(-1, *[0] * 9, b"", b"")

SEGMENT = b"\x0f\xa0\x01\xbb" + bytes(8) + b"\x50\x02" + bytes(6)
"""A TCP header without options, also read as UDP."""

Parser = Callable[[bytes], bytes]


def reference(data: bytes) -> bytes:
    """The record that the header must give, made by the Python parser."""
    try:
        packet = parse_packet(data)
    except MalformedPacket:
        return MALFORMED
    return RECORD.pack(
        0,
        packet.version,
        packet.protocol,
        packet.fragment | packet.later_fragment << 1,
        packet.tcp_flags,
        packet.transport_offset,
        packet.payload_offset,
        packet.source_port,
        packet.destination_port,
        packet.length,
        packet.source.packed,
        packet.destination.packed,
    )


def assert_same(parse: Parser, data: bytes) -> None:
    answer, expected = parse(data), reference(data)
    assert answer == expected, f"{data.hex()}: {RECORD.unpack(answer)}, not {RECORD.unpack(expected)}"


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parser]:
    """The header in user space, under the sanitizers: one process that answers packet by packet."""
    program = tmp_path_factory.mktemp("headers") / "harness"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    warn = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        ["clang", "-O1", "-g", *warn, *sanitize, f"-I{KERNEL}", HARNESS, "-o", program], check=True
    )
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        to, back = process.stdin, process.stdout
        assert to is not None
        assert back is not None

        def ask(data: bytes) -> bytes:
            to.write(struct.pack("=I", len(data)) + data)
            to.flush()
            answer = back.read(RECORD.size)
            assert len(answer) == RECORD.size, f"the harness died of {data.hex()}"
            return answer

        yield ask
        to.close()
        assert process.wait(timeout=10) == 0


V4 = ip_address("192.0.2.1"), ip_address("198.51.100.2")
V6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
SAMPLES = {
    "tcp4": build_tcp(*V4, 4000, 443, TcpFlag.SYN, payload=b"hello"),
    "tcp6": build_tcp(*V6, 4000, 443, TcpFlag.SYN | TcpFlag.ACK, payload=b"hello"),
    "udp4": build_udp(*V4, 4000, 53, b"hello"),
    "udp6": build_udp(*V6, 4000, 53, b"hello"),
    "icmp": build_ip(*V4, Protocol.ICMP, b"\x08" + bytes(7)),
    "icmpv6": build_ip(*V6, Protocol.ICMPV6, b"\x80" + bytes(7)),
    "sctp": build_ip(*V4, Protocol.SCTP, b"\x0b\x59\x0b\x5a" + bytes(8)),
    "gre": build_ip(*V4, 47, bytes(8)),
    "options": build_ip(*V6, 60, bytes([6, 1]) + bytes(14) + SEGMENT),
    "fragment": build_ip(*V6, 44, bytes([60, 0, 0, 1]) + bytes(4) + bytes([17, 0]) + bytes(6) + SEGMENT),
    "authentication": build_ip(*V6, 51, bytes([6, 1]) + bytes(10) + SEGMENT),
    "eight": build_ip(*V6, 0, bytes(56) + bytes([6]) + bytes(7) + SEGMENT),
    "nine": build_ip(*V6, 0, bytes(64) + bytes([6]) + bytes(7) + SEGMENT),
}


@given(packets())
@settings(max_examples=600 * FUZZ, deadline=None)
def test_same_for_well_made_packets(parse: Parser, made: Made) -> None:
    """portmaster-kext §2.3.1."""
    assert RECORD.unpack(parse(made.data))[0] == 0
    assert_same(parse, made.data)


@given(damaged_packets())
@settings(max_examples=1200 * FUZZ, deadline=None)
def test_same_for_damaged_packets(parse: Parser, data: bytes) -> None:
    assert_same(parse, data)


@given(random_bytes())
@settings(max_examples=1000 * FUZZ, deadline=None)
def test_same_for_random_bytes(parse: Parser, data: bytes) -> None:
    assert_same(parse, data)


@pytest.mark.parametrize("name", SAMPLES)
def test_same_at_every_length(parse: Parser, name: str) -> None:
    for size in range(len(SAMPLES[name]) + 1):
        assert_same(parse, SAMPLES[name][:size])
    assert_same(parse, SAMPLES[name] + bytes(10))


@pytest.mark.parametrize("name", SAMPLES)
def test_same_for_every_value_of_every_byte_that_is_looked_at(parse: Parser, name: str) -> None:
    sample = SAMPLES[name]
    addresses = range(12, 20) if sample[0] >> 4 == 4 else range(8, 40)
    for at in sorted(set(range(len(sample))) - set(addresses)):
        for value in range(256):
            assert_same(parse, sample[:at] + bytes([value]) + sample[at + 1 :])


@pytest.mark.live
def test_same_in_the_kernel(tmp_path: Path) -> None:
    """§2.3.3: The verifier takes the header, and what it finds is the same (programs are run, never attached)."""
    program, pins = tmp_path / "harness.o", Path(f"/sys/fs/bpf/tidewaiter_headers_{os.getpid()}")
    include = [f"-I/usr/include/{platform.machine()}-linux-gnu", f"-I{KERNEL}"]
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-Wall", "-Werror", *include, "-c", HARNESS, "-o", program],
        check=True,
    )
    bpftool("prog", "loadall", program, pins, "pinmaps", pins)
    try:
        for sample in SAMPLES.values():
            for data in (sample, sample[:30], sample[:-10], sample + bytes(10)):
                (tmp_path / "frame").write_bytes(bytes(14) + data)  # a test run takes an Ethernet header away
                bpftool("prog", "run", "pinned", pins / "at_cgroup", "data_in", tmp_path / "frame")
                lookup = bpftool("-j", "map", "lookup", "pinned", pins / "records", "key", "0", "0", "0", "0")
                record = bytes(int(byte, 16) for byte in json.loads(lookup)["value"])
                assert record == reference(data), data.hex()
    finally:
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()


def bpftool(*arguments: str | Path) -> str:
    done = subprocess.run(["bpftool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
