"""A flood of new flows: what an established TCP stream keeps of its throughput, and how soon there is service again.

Datagrams and SYNs of sources that do not exist come to a port where a program waits, and a rule says to ask, while
nobody answers. The flood alone costs processor time, and the stream shares the machine with it: so the ratio that tells
what the firewall costs is the stream under the flood with the firewall, over the same without. Beside it, for each:
under the flood over alone. Without a firewall the flood ends in the program's sockets, which is work as well.

BENCH_FLOOD_SECONDS (10) and BENCH_FLOOD_RATE (100000 a second) set the flood; the table says what was reached.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import HERE, PORT, SERVER

from tidewaiter.lab import plan
from tidewaiter.lab.world import World

NAMES = ["nothing", "nobody answers"]
SECONDS = float(os.environ.get("BENCH_FLOOD_SECONDS", "10"))
RATE = float(os.environ.get("BENCH_FLOOD_RATE", "100000"))
ALONE = 3.0
ASKED, FLOODED = PORT + 1, 9999


@contextmanager
def waiting(made: World, flood: Path) -> Iterator[None]:
    """The program that the flood is for."""
    process = made.popen([flood, "wait", str(FLOODED)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield
    finally:
        process.kill()
        process.wait()


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def processor(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(made: World, load: Path, flood: Path, pid: int) -> dict[str, float]:
    """One turn: bytes a second alone and under the flood, flows a second, the share of a processor that the contender
    takes, milliseconds to an answer behind it, MB.
    """
    with waiting(made, flood):  # begun under this contender: it knows who waits
        (alone,) = harness.numbers(made, load, "stream", SERVER, PORT, ALONE)
        words = [flood, "in", plan.CLIENT.v4, str(FLOODED), str(SECONDS), str(RATE), "both"]
        before = processor(pid)
        process = made.popen_server(list(map(str, words)), stdout=subprocess.PIPE)
        (under,) = harness.numbers(made, load, "stream", SERVER, PORT, SECONDS)
        out, _ = process.communicate(timeout=120)
        sent, _, took = map(int, out.split())
        busy = processor(pid) - before
        service, *_ = harness.numbers(made, load, "connect", SERVER, ASKED, 1)
        return {
            "alone": float(alone),
            "under": float(under),
            "rate": sent / (took / 1e6),
            "processor": busy / (took / 1e6),
            "service": service / 1e6,
            "memory": memory(pid),
        }


def main() -> None:
    """Both in turn, several rounds."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in NAMES}
    with harness.world() as (made, load), tempfile.TemporaryDirectory() as folder:
        flood = Path(folder) / "flood"
        subprocess.run(["gcc", "-O2", "-o", flood, HERE / "flood.c"], check=True)
        with harness.server(made, load, "sink"), harness.server(made, load, "accept", ASKED):
            for number in range(harness.rounds()):
                for name in NAMES if number % 2 == 0 else list(reversed(NAMES)):
                    print(f"\rround {number + 1} of {harness.rounds()}: {name:<20}", end="", file=sys.stderr)
                    with harness.contender(made, name) as pid:
                        for figure, value in measure(made, load, flood, pid).items():
                            figures[name].setdefault(figure, []).append(value)
    print(file=sys.stderr)
    middle = harness.medians(figures)
    kept = {
        name: statistics.median(
            under / alone for under, alone in zip(figures[name]["under"], figures[name]["alone"], strict=True)
        )
        for name in NAMES
    }
    ratio = harness.ratio(figures, "under", "nobody answers", "nothing")
    rows = [
        [
            name,
            f"{middle[name]['alone'] / 1e6:,.0f}",
            f"{middle[name]['under'] / 1e6:,.0f}",
            f"{kept[name]:.2f}",
            f"{harness.ratio(figures, 'under', name, 'nothing'):.2f}",
            f"{middle[name]['rate']:,.0f}",
            f"{middle[name]['processor']:.0%}",
            f"{middle[name]['service']:.1f}",
            f"{middle[name]['memory']:.0f}",
        ]
        for name in NAMES
    ]
    columns = [
        "",
        "MB/s alone",
        "under flood",
        "kept",
        "× nothing",
        "flows/s",
        "its processor",
        "then connect ms",
        "RSS MB",
    ]
    harness.show("An established stream under a flood of new flows", columns, rows)
    harness.save("flood", {"figures": middle, "kept": kept, "under flood / nothing": ratio})


if __name__ == "__main__":
    main()
