"""What established traffic pays: one TCP stream, unreplied datagrams, the cost of each eBPF program, and memory.

The contenders take turns in one world, several rounds; each ratio is the median of the ratios of the rounds. The cost
of a program is what the kernel itself counts (kernel.bpf_stats_enabled: run_time_ns / run_cnt), less
that of an empty program, which is measured in the same run.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from harness import PORT, SERVER

from tidewaiter.lab.world import World

NAMES = ["nothing", "kernel", "kernel, events", "python"]
SECONDS = 1.5
FIGURES = {
    "stream": "TCP stream",
    "connected": "64-byte UDP, connected",
    "unconnected": "64-byte UDP, unconnected",
}
_EMPTY = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
SEC("cgroup_skb/egress") int empty(struct __sk_buff *skb) { return 1; }
"""


def measure(made: World, load: Path) -> dict[str, float]:
    """One turn of one contender: bytes a second, datagrams a second."""
    (stream,) = harness.numbers(made, load, "stream", SERVER, PORT, SECONDS)
    result = {"stream": float(stream)}
    for kind in ("connected", "unconnected"):
        (rate,) = harness.numbers(made, load, "datagrams", SERVER, PORT + 1, SECONDS, 64, kind)
        result[kind] = float(rate)
    return result


@contextmanager
def counting() -> Iterator[None]:
    """The kernel counts what programs cost; counting itself costs about 40 ns a run."""
    subprocess.run(["sysctl", "-qw", "kernel.bpf_stats_enabled=1"], check=True)
    try:
        yield
    finally:
        subprocess.run(["sysctl", "-qw", "kernel.bpf_stats_enabled=0"], check=True)


def _bpftool(*words: str) -> list[dict[str, Any]]:
    shown = json.loads(subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True).stdout)
    return shown if isinstance(shown, list) else [shown]


def programs(made: World) -> dict[str, tuple[int, int]]:
    """Time (ns) and runs of each program on the lab's cgroup and in its hold rules."""
    ids = {one["id"] for one in _bpftool("cgroup", "show", str(made.cgroup))}
    held = Path("/sys/fs/bpf/tidewaiter/bench").glob("*/hold/*")
    shown = [one for pin in held for one in _bpftool("prog", "show", "pinned", str(pin))]
    shown += [one for one in _bpftool("prog", "show") if one["id"] in ids]
    return {one["name"]: (one.get("run_time_ns", 0), one.get("run_cnt", 0)) for one in shown}


def cost(made: World, load: Path, *words: object) -> dict[str, float]:
    """Nanoseconds a run of each program that ran for most packets of a load."""
    before = programs(made)
    harness.numbers(made, load, *words)
    after = programs(made)
    runs = {
        name: (time_ - before[name][0], count - before[name][1]) for name, (time_, count) in after.items()
    }
    most = max(count for _, count in runs.values())
    return {name: time_ / count for name, (time_, count) in runs.items() if count > most / 50}


@contextmanager
def empty_program(made: World, folder: Path) -> Iterator[None]:
    """An empty program beside ours on the lab's cgroup."""
    source, target, pin = (
        folder / "empty.bpf.c",
        folder / "empty.bpf.o",
        Path(f"/sys/fs/bpf/{made.name}-empty"),
    )
    source.write_text(_EMPTY)
    include = next(path for path in Path("/usr/include").glob("*-linux-gnu") if (path / "asm").exists())
    words = ["clang", "-O2", "-target", "bpf", f"-I{include}", "-c", str(source), "-o", str(target)]
    subprocess.run(words, check=True)
    subprocess.run(["bpftool", "prog", "load", target, pin], check=True)
    attach = ["cgroup_inet_egress", "pinned", str(pin)]
    subprocess.run(["bpftool", "cgroup", "attach", str(made.cgroup), *attach, "multi"], check=True)
    try:
        yield
    finally:
        subprocess.run(["bpftool", "cgroup", "detach", str(made.cgroup), *attach], check=True)
        pin.unlink()


def costs(made: World, load: Path) -> dict[str, dict[str, float]]:
    """Nanoseconds above an empty program, by load and program."""
    loads = {
        "TCP stream": ("stream", SERVER, PORT, 1),
        "UDP, connected": ("datagrams", SERVER, PORT + 1, 1, 64, "connected"),
        "UDP, unconnected": ("datagrams", SERVER, PORT + 1, 1, 64, "unconnected"),
    }
    found = {}
    with harness.contender(made, "kernel"), empty_program(made, load.parent), counting():
        for name, words in loads.items():
            rounds = [cost(made, load, *words) for _ in range(harness.rounds())]
            empty = sorted(one["empty"] for one in rounds)[len(rounds) // 2]
            names = {program for one in rounds for program in one} - {"empty"}
            found[name] = {
                program: sorted(one.get(program, 0.0) for one in rounds)[len(rounds) // 2] - empty
                for program in sorted(names)
            }
            found[name]["(empty)"] = empty
    return found


def memory(made: World) -> float:
    """Resident megabytes of a firewall at rest."""
    with harness.contender(made, "kernel") as pid:
        time.sleep(1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    raise SystemExit("no VmRSS")


def main() -> None:
    """Measures and prints."""
    with harness.world() as (made, load), harness.server(made, load, "sink"):
        figures = harness.interleaved(made, NAMES, lambda _: measure(made, load))
        per_packet = costs(made, load)
        resident = memory(made)
    middle = harness.medians(figures)
    rows = [
        [name]
        + [
            cell
            for figure in FIGURES
            for cell in (
                f"{middle[name][figure] / (1e9 if figure == 'stream' else 1e3):,.2f}",
                f"{harness.ratio(figures, figure, name, 'nothing'):.3f}",
            )
        ]
        for name in NAMES
    ]
    columns = ["", "TCP GB/s", "ratio", "UDP conn. k/s", "ratio", "UDP unconn. k/s", "ratio"]
    harness.show("Throughput", columns, rows)
    cells = [
        [kind, program, f"{value:.0f}"]
        for kind, values in per_packet.items()
        for program, value in values.items()
    ]
    harness.show("eBPF per packet, ns above an empty program", ["load", "program", "ns"], cells)
    print(f"Memory at rest: {resident:.1f} MB")
    ratios = {
        name: {figure: harness.ratio(figures, figure, name, "nothing") for figure in FIGURES}
        for name in NAMES
    }
    harness.save(
        "throughput", {"medians": middle, "ratios": ratios, "ebpf": per_packet, "memory MB": resident}
    )


if __name__ == "__main__":
    main()
