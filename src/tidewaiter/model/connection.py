"""A connection: its key, who owns it, what was decided and how much it carried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidewaiter.model._native import ConnectionFields, choices
from tidewaiter.model.key import HAVE_CONNECTIONS, PROTOCOL, REMOTE_PORT, ConnectionKey, Direction
from tidewaiter.model.name import NO_NAME, Name
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict


class Tier(StrEnum):
    """Where a connection was decided: T0, T1 and T2 of docs/design.md."""

    CACHE = "cache"
    KERNEL = "kernel"
    PYTHON = "python"


choices(tuple(Direction), tuple(Verdict), (None, *Tier), UNKNOWN, NO_NAME)


_last: tuple[bytes, ConnectionKey | None] = b"", None


class _Stored(ConnectionFields):
    __slots__ = ()

    @property
    def key(self) -> ConnectionKey:
        """Made of its bytes when it is asked for. The last one is kept: who decides asks again and again."""
        global _last  # noqa: PLW0603 - in the class it would make Python look up all its attributes anew
        flow, key = _last
        if key is None or flow is not self.flow:
            key = ConnectionKey.unpack(self.flow)
            _last = self.flow, key
        return key


@dataclass(init=False)  # _native.ConnectionFields stores the fields, and is their constructor
class Connection(_Stored):
    """What the firewall knows of one connection.

    Times are nanoseconds of CLOCK_MONOTONIC, 0 while not reached; ``decided`` is that of the verdict. ``sent``
    and ``received`` are payload bytes, complete once ``ended`` is set. ``rule`` is the name of the rule that
    decided, "" for none. ``epoch`` counts the policies: it is that under which the kernel asked, or decided.
    ``interface`` is the one by which the packet that was last asked about goes out or came in, "" where none was.
    The first three have to be given; ``flow`` is the key as bytes (`ConnectionKey.pack`), which may be given for it.
    """

    __slots__ = ()

    id: int
    key: ConnectionKey
    direction: Direction
    process: Process
    verdict: Verdict
    rule: str
    tier: Tier | None
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

    @property
    def protocol(self) -> int:
        """That of its key, without making that."""
        return self.flow[PROTOCOL]

    @property
    def remote_port(self) -> int:
        """The same for the other end's port; 0 where the protocol has none."""
        return int.from_bytes(self.flow[REMOTE_PORT], "little")

    @property
    def decided_for_good(self) -> bool:
        """Whether its verdict holds for later packets."""
        return self.verdict.permanent and self.flow[PROTOCOL] in HAVE_CONNECTIONS

    @property
    def remembers(self) -> bool:
        """Whether a permanent verdict holds for later packets too: not where each packet is decided by itself."""
        return self.flow[PROTOCOL] in HAVE_CONNECTIONS
