"""Where connections keep their fields, in C (native/)."""

from typing import Self

from tidewaiter.model.connection import Tier
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.name import Name
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict

def choices(
    directions: tuple[Direction, ...],
    verdicts: tuple[Verdict, ...],
    tiers: tuple[Tier | None, ...],
    nobody: Process,
    no_name: Name,
    /,
) -> None:
    """What these fields may be, called once. Unless told they are the first of each, ``nobody`` and ``no_name``."""

make: object
"""A capsule: how another native module makes a connection (native/connection.h)."""

class ConnectionFields:
    """The storage of a `Connection`: 144 bytes, numbers from 0 to 2**64 - 1 (``epoch``: 2**32 - 1)."""

    direction: Direction
    process: Process
    verdict: Verdict
    rule: str
    tier: Tier | None
    id: int
    cookie: int
    opened: int
    established: int
    ended: int
    sent: int
    received: int
    decided: int
    epoch: int
    name: Name
    interface: str

    def __new__(
        cls,
        id: int,
        key: ConnectionKey | bytes,
        direction: Direction,
        process: Process = ...,
        verdict: Verdict = ...,
        rule: str = "",
        tier: Tier | None = None,
        cookie: int = 0,
        opened: int = 0,
        established: int = 0,
        ended: int = 0,
        sent: int = 0,
        received: int = 0,
        decided: int = 0,
        epoch: int = 0,
        name: Name = ...,
        interface: str = "",
    ) -> Self:
        """``key`` may be the bytes that `ConnectionKey.pack` makes of it."""

    @property
    def flow(self) -> bytes:
        """The key as its bytes."""
