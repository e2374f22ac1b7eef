"""The wire: infos written and read a second by one processor, beside the same layout by struct alone."""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable

from harness import rounds, save, show

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


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def write(infos: list[info.Info]) -> list[bytes]:
    """Encodes them one by one."""
    return [info.encode(one) for one in infos]


def bare() -> None:
    """What Python needs at least: one call of struct an info."""
    for _ in range(COUNT):
        END.pack(3, 22, 4242, 0, 6, HERE, THERE, 40000, 443)


def main() -> None:
    """Rates in millions a second, medians of interleaved rounds."""
    rates: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in INFOS}
    floor: list[float] = []
    for _ in range(rounds()):
        floor.append(COUNT / seconds(bare) / 1e6)
        for name, one in INFOS.items():
            many = [one] if isinstance(one, info.BandwidthStats) else [one] * COUNT
            data = b"".join(map(info.encode, many))
            rates[name]["encode"].append(COUNT / seconds(write, many) / 1e6)
            rates[name]["decode"].append(COUNT / seconds(InfoDecoder().feed, data) / 1e6)
    bare_rate = statistics.median(floor)
    result = {
        name: {way: statistics.median(values) for way, values in ways.items()} for name, ways in rates.items()
    }
    rows = [
        (
            name,
            *(f"{result[name][way]:.2f}" for way in ("encode", "decode")),
            f"{result[name]['encode'] / bare_rate:.2f}",
        )
        for name in result
    ]
    show(
        f"infos a second, millions (struct.pack alone: {bare_rate:.2f})",
        ("info", "encode", "decode", "encode / struct"),
        rows,
    )
    save("wire", {"struct": bare_rate, **result})


if __name__ == "__main__":
    main()
