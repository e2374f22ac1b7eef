"""A connection: its key, who owns it, what was decided and how much it carried."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tidewaiter.model.key import HAVE_CONNECTIONS, ConnectionKey, Direction
from tidewaiter.model.name import NO_NAME, Name
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict


class Tier(StrEnum):
    """Where a connection was decided: T0, T1 and T2 of docs/design.md."""

    CACHE = "cache"
    KERNEL = "kernel"
    PYTHON = "python"


@dataclass(slots=True)
class Connection:
    """What the firewall knows of one connection.

    Times are nanoseconds of CLOCK_MONOTONIC, 0 while not reached; ``decided`` is that of the verdict. ``sent``
    and ``received`` are payload bytes, complete once ``ended`` is set. ``rule`` is the name of the rule that
    decided, "" for none. ``epoch`` counts the policies: it is that under which the kernel asked, or decided.
    """

    id: int
    key: ConnectionKey
    direction: Direction
    process: Process = field(default=UNKNOWN)
    verdict: Verdict = Verdict.UNDECIDED
    rule: str = ""
    tier: Tier | None = None
    cookie: int = 0
    opened: int = 0
    established: int = 0
    ended: int = 0
    sent: int = 0
    received: int = 0
    decided: int = 0
    epoch: int = 0
    name: Name = NO_NAME

    @property
    def decided_for_good(self) -> bool:
        """Whether its verdict holds for later packets."""
        return self.verdict.permanent and self.remembers

    @property
    def remembers(self) -> bool:
        """Whether a permanent verdict holds for later packets too: not where each packet is decided by itself."""
        return self.key.protocol in HAVE_CONNECTIONS
