"""The wire: infos written and read a second of a processor, beside one call of struct for the same layout.

Seconds are those that the thread has had the processor, so that other work of the machine does not count.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from harness import medians, ratio, rounds, save, show

from tidewaiter.protocol import info
from tidewaiter.protocol.stream import InfoDecoder

COUNT = 20_000
HERE, THERE = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
INFOS: dict[str, info.Info] = {
    "ConnectionEnd": info.ConnectionEnd(4242, 0, 6, HERE, THERE, 40000, 443),
    "Connection, 60 bytes": info.ConnectionInfo(7, 4242, 0, 6, HERE, THERE, 40000, 443, 4, bytes(60)),
    "BandwidthStats, an entry": info.BandwidthStats(
        4, 6, (info.BandwidthEntry(HERE, 40000, THERE, 443, 123456, 654321),) * COUNT
    ),
}
END = struct.Struct("<BIQBB4s4sHH")
FLOOR = "struct alone"
WAYS = "encode", "decode"
PIECE = 1 << 16


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long a call takes the processor."""
    begun = time.thread_time()
    work(*arguments)
    return time.thread_time() - begun


def write(infos: list[info.Info]) -> list[bytes]:
    """Encodes them one by one."""
    return [info.encode(one) for one in infos]


def read(data: bytes) -> None:
    """Decodes what comes in pieces of 64 KiB, as an owner reads them from its socket."""
    decoder = InfoDecoder()
    for at in range(0, len(data), PIECE):
        decoder.feed(data[at : at + PIECE])


def pack() -> None:
    """What Python needs at least: one call of struct an info."""
    for _ in range(COUNT):
        END.pack(3, 22, 4242, 0, 6, HERE, THERE, 40000, 443)


def unpack(data: bytes) -> None:
    """The same, to read."""
    for at in range(0, COUNT * END.size, END.size):
        END.unpack_from(data, at)


def main() -> None:
    """Rates in millions a second, medians of interleaved rounds; the ratios are of the same round."""
    rates: dict[str, dict[str, list[float]]] = {}

    def count(name: str, way: str, took: float) -> None:
        rates.setdefault(name, {}).setdefault(way, []).append(COUNT / took / 1e6)

    for _ in range(rounds()):
        count(FLOOR, "encode", seconds(pack))
        count(FLOOR, "decode", seconds(unpack, b"".join(write([INFOS["ConnectionEnd"]] * COUNT))))
        for name, one in INFOS.items():
            many: list[info.Info] = [one] if isinstance(one, info.BandwidthStats) else [one] * COUNT
            count(name, "encode", seconds(write, many))
            count(name, "decode", seconds(read, b"".join(write(many))))
    result = medians(rates)
    rows = [
        (
            name,
            *(f"{result[name][way]:.2f}" for way in WAYS),
            *(f"{ratio(rates, way, name, FLOOR):.2f}" for way in WAYS),
        )
        for name in result
    ]
    show("infos a second, millions", ("info", *WAYS, *(f"{way} / struct" for way in WAYS)), rows)
    save("wire", result)


if __name__ == "__main__":
    main()
