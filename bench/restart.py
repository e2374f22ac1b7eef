"""kill -9 and a new start: how long until the firewall stands again, and until it has answered a question.

Meanwhile the kernel half goes on by itself. The baseline is a Python that imports the same and ends: no restart can be
quicker. Each time is in milliseconds from the start of the new process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import PORT, SERVER

from tidewaiter.lab.world import World

KILLS = int(os.environ.get("BENCH_KILLS", "20"))
POLICY = 'version = 1\n[[rule]]\nname = "asked"\nport = "5000"\nverdict = "ask"\n'
IMPORTS = "import tidewaiter.cli.run"


def start(made: World, policy: Path) -> tuple[subprocess.Popen[bytes], float]:
    """A firewall that answers by its time-out, after 10 ms; when it stands, and how long that took."""
    begun = time.perf_counter()
    scope = ["--cgroup", str(made.cgroup), "--netns", str(made.client_namespace), "--name", "bench"]
    answers = ["--policy", str(policy), "--timeout", "0.01", "--on-timeout", "accept"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tidewaiter", "run", "--json", *scope, *answers], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    if b"Guarding" not in process.stdout.readline():
        raise SystemExit("the firewall did not start")
    return process, (time.perf_counter() - begun) * 1e3


def main() -> None:
    """Baseline and restart in turn."""
    figures: dict[str, list[float]] = {"imports": [], "stands": [], "answered": []}
    with harness.world() as (made, load), harness.server(made, load, "accept"):
        policy = load.parent / "policy.toml"
        policy.write_text(POLICY)
        process, _ = start(made, policy)
        try:
            for _ in range(KILLS):
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-c", IMPORTS], check=True)
                figures["imports"].append((time.perf_counter() - begun) * 1e3)
                process.kill()
                process.wait()
                begun = time.perf_counter()
                process, took = start(made, policy)
                figures["stands"].append(took)
                harness.numbers(made, load, "connect", SERVER, PORT, 1)
                figures["answered"].append((time.perf_counter() - begun) * 1e3)
        finally:
            process.terminate()
            process.communicate(timeout=30)
    rows = [[name, f"{statistics.median(took):.0f}", f"{max(took):.0f}"] for name, took in figures.items()]
    harness.show(f"{KILLS} times kill -9 and a new start, milliseconds", ["", "median", "longest"], rows)
    harness.save(
        "restart", {name: {"median": statistics.median(t), "longest": max(t)} for name, t in figures.items()}
    )


if __name__ == "__main__":
    main()
