"""The counters of the kernel half (enum tw_counter), by the names that docs/reference/statistics.md explains."""

from __future__ import annotations

from tidewaiter.kernel.loader import Kernel

NAMES = (
    "kernel_events_lost",
    "unheld_dropped",
    "unheld_passed",
    "pending_full",
    "kernel_held",
    "kernel_refused",
    "makers_full",
    "packet_sockets_full",
    "texts_lost",
)
"""By their numbers."""


class Counters:
    """They count from the installation, and only grow. May be read from any thread."""

    def __init__(self, kernel: Kernel) -> None:
        self._map = kernel.map("counters")

    def read(self) -> dict[str, int]:
        """All of them, each the sum over all processors."""
        return {name: self._map.sum(value=number) for number, name in enumerate(NAMES)}

    def unheld(self) -> int:
        """Packets that were undecided at the gate, whatever became of them."""
        return sum(self._map.sum(value=NAMES.index(name)) for name in ("unheld_dropped", "unheld_passed"))
