"""What the benchmarks share: the load, the contenders in turn in one world, medians, ratios, a table and JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tidewaiter.lab.world import World

HERE = Path(__file__).parent
SERVER = "10.77.0.10"
PORT = 5000


def build_load(folder: Path) -> Path:
    """Compiles load.c."""
    program = folder / "load"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "load.c"], check=True)
    return program


@contextmanager
def world() -> Iterator[tuple[World, Path]]:
    """A lab and the compiled load."""
    with tempfile.TemporaryDirectory() as folder, World() as made:
        yield made, build_load(Path(folder))


@contextmanager
def server(made: World, load: Path, kind: str, port: int = PORT) -> Iterator[None]:
    """A server of the load on the internet side."""
    process = made.popen_server([load, kind, str(port)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def contender(made: World, name: str) -> Iterator[int]:
    """One of contenders.py; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, HERE / "contenders.py", name, made.cgroup, made.client_namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    if process.stdout.readline() != b"ready\n":
        raise SystemExit(f"the contender {name!r} did not start")
    try:
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def numbers(made: World, load: Path, *words: object) -> list[int]:
    """Runs the load in the client; its numbers."""
    process = made.popen([load, *map(str, words)], stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=120)
    if process.returncode:
        raise SystemExit(f"the load {' '.join(map(str, words))} failed")
    return [int(line) for line in out.split()]


def processor_time(pid: int) -> int:
    """Nanoseconds for which a process, with all its threads, has had a processor (/proc/PID/task/*/schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def rounds() -> int:
    """How many interleaved rounds: BENCH_ROUNDS, or 5."""
    return int(os.environ.get("BENCH_ROUNDS", "5"))


def interleaved(
    made: World, names: Sequence[str], measure: Callable[[int], dict[str, float]]
) -> dict[str, dict[str, list[float]]]:
    """Each contender in turn, several rounds: figures by contender and name. ``measure`` is told its process id."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(rounds()):
        for name in names if number % 2 == 0 else list(reversed(names)):
            print(f"\rround {number + 1} of {rounds()}: {name:<20}", end="", file=sys.stderr, flush=True)
            with contender(made, name) as pid:
                for figure, value in measure(pid).items():
                    figures[name].setdefault(figure, []).append(value)
    print(file=sys.stderr)
    return figures


def medians(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """The median of each figure."""
    return {name: {k: statistics.median(v) for k, v in rows.items()} for name, rows in figures.items()}


def ratio(figures: dict[str, dict[str, list[float]]], figure: str, name: str, baseline: str) -> float:
    """The median of the ratios round by round: what the machine does to both at once falls out."""
    pairs = zip(figures[name][figure], figures[baseline][figure], strict=True)
    return statistics.median(a / b for a, b in pairs)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal."""
    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def save(name: str, result: object) -> None:
    """The same as JSON, on standard output behind the table, and in bench/results/ if BENCH_SAVE is set."""
    print(json.dumps({"benchmark": name, "result": result}))
    if os.environ.get("BENCH_SAVE"):
        folder = HERE / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def percentile(values: Sequence[int], share: float) -> int:
    """The value below which ``share`` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
