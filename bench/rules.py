"""What ten thousand rules that do not match cost a connection, beside one: decided in the kernel, and in Python."""

from __future__ import annotations

import time
from pathlib import Path

import harness
from harness import PORT, SERVER

from tidewaiter.lab.world import World

CONNECTS = 10_000
SETTLED = 2.0
"""Seconds after which the second generation of ten thousand rules is written too (host/policy_maps.py)."""

NAMES = ["kernel, 1 rule", "kernel, 10,000 rules", "python, 1 rule", "python, 10,000 rules"]


def measure(made: World, load: Path) -> dict[str, float]:
    """Sequential connects of one client."""
    time.sleep(SETTLED)
    harness.numbers(made, load, "connect", SERVER, PORT, 500)  # warm
    total, *took = harness.numbers(made, load, "connect", SERVER, PORT, CONNECTS)
    return {"rate": CONNECTS / (total / 1e9), "p50": harness.percentile(took, 0.5) / 1e3}


def main() -> None:
    """Measures and prints."""
    with harness.world() as (made, load), harness.server(made, load, "accept"):
        figures = harness.interleaved(made, NAMES, lambda _: measure(made, load))
    middle = harness.medians(figures)
    ratios = {name: harness.ratio(figures, "rate", name, f"{name.split(',')[0]}, 1 rule") for name in NAMES}
    rows = [
        [name, f"{middle[name]['rate']:,.0f}", f"{middle[name]['p50']:.1f}", f"{ratios[name]:.3f}"]
        for name in NAMES
    ]
    harness.show("Rules before the match", ["", "conn/s", "p50 µs", "× 1 rule"], rows)
    harness.save("rules", {"medians": middle, "ratios": ratios})


if __name__ == "__main__":
    main()
