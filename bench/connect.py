"""How many connections a second, and how long each connect() takes, with what stands in the way.

Sequential connects of one client, and four clients at once, over the lab's veth pair. The contenders take turns in
one world, several rounds; each ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import harness
from harness import PORT, SERVER

from tidewaiter.lab.world import World

ONE, FOUR = 15_000, 6_000
NAMES = ["nothing", "kernel", "kernel, events", "python", "NetfilterQueue"]


def measure(made: World, load: Path, contender: int) -> dict[str, float]:
    """One turn of one contender, whose process id is given.

    How long it needs a processor for a connection is not the time that it takes: what the kernel does while an answer
    is sent is in it, and no wait. It says most where others want the processors too.
    """
    harness.numbers(made, load, "connect", SERVER, PORT, 500)  # warm
    total, *took = harness.numbers(made, load, "connect", SERVER, PORT, ONE)
    words = [str(load), "connect", SERVER, str(PORT), str(FOUR)]
    begin, before = time.perf_counter(), harness.processor_time(contender)
    clients = [made.popen(words, stdout=subprocess.PIPE) for _ in range(4)]
    spans = [int(client.communicate(timeout=120)[0].split()[0]) for client in clients]
    assert time.perf_counter() - begin < 120
    spent = harness.processor_time(contender) - before
    return {
        "rate": ONE / (total / 1e9),
        "p50": harness.percentile(took, 0.5) / 1e3,
        "p99": harness.percentile(took, 0.99) / 1e3,
        "rate of four": sum(FOUR / (span / 1e9) for span in spans),
        "processor of four": spent / 1e3 / (4 * FOUR),
    }


def main() -> None:
    """Measures and prints."""
    with harness.world() as (made, load), harness.server(made, load, "accept"):
        figures = harness.interleaved(made, NAMES, lambda pid: measure(made, load, pid))
    middle = harness.medians(figures)
    rows = [
        [
            name,
            f"{middle[name]['rate']:,.0f}",
            f"{harness.ratio(figures, 'rate', name, 'nothing'):.3f}",
            f"{harness.ratio(figures, 'rate', name, 'NetfilterQueue'):.2f}",
            f"{middle[name]['p50']:.1f}",
            f"{middle[name]['p99']:.1f}",
            f"{harness.ratio(figures, 'p99', name, 'NetfilterQueue'):.2f}",
            f"{middle[name]['rate of four']:,.0f}",
            f"{harness.ratio(figures, 'rate of four', name, 'NetfilterQueue'):.2f}",
            f"{middle[name]['processor of four']:.1f}",
        ]
        for name in NAMES
    ]
    columns = ["", "conn/s", "× nothing", "× NFQ", "p50 µs", "p99 µs", "p99 × NFQ", "four, conn/s", "× NFQ"]
    columns.append("four, µs of processor")
    harness.show("Connections", columns, rows)
    result = {
        name: middle[name]
        | {
            "rate / nothing": harness.ratio(figures, "rate", name, "nothing"),
            "rate / NetfilterQueue": harness.ratio(figures, "rate", name, "NetfilterQueue"),
            "p99 / NetfilterQueue": harness.ratio(figures, "p99", name, "NetfilterQueue"),
            "rate of four / NetfilterQueue": harness.ratio(figures, "rate of four", name, "NetfilterQueue"),
        }
        for name in NAMES
    }
    harness.save("connect", result)


if __name__ == "__main__":
    main()
