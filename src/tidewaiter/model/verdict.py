"""The one verdict vocabulary, from the wire to the terminal.

The numbers are those of the Portmaster kernel extension (reference: docs/reference/wire.md), so
that a byte on the wire, a cell in a kernel map and a word in the policy file mean the same thing.
"""

from __future__ import annotations

from enum import IntEnum

from tidewaiter.model.key import Direction


class Verdict(IntEnum):
    """What happens to a connection, or to one packet of it.

    *Permanent* verdicts are cached in the kernel for the whole connection; the others hold for one
    packet, and the next packet asks again. *Block* is noticed by the program at once (TCP RST, ICMP
    unreachable, or an error of ``connect()``); *drop* is silence.
    """

    UNDECIDED = 0
    UNDETERMINABLE = 1
    ACCEPT = 2
    PERMANENT_ACCEPT = 3
    BLOCK = 4
    PERMANENT_BLOCK = 5
    DROP = 6
    PERMANENT_DROP = 7
    REDIRECT_NAME_SERVER = 8
    REDIRECT_TUNNEL = 9
    FAILED = 10
    REDIRECT_SPLIT_TUNNEL = 11

    @property
    def permanent(self) -> bool:
        """Whether the kernel remembers this verdict for the rest of the connection."""
        return self in _PERMANENT

    @property
    def passes(self) -> bool:
        """Whether a packet under this verdict goes on (perhaps to another destination)."""
        return self in _PASSING

    @property
    def rejects(self) -> bool:
        """Whether the program is told at once that it was refused."""
        return self in _REJECTING

    def rejects_for(self, direction: Direction) -> bool:
        """The same for a held packet of a connection that began in this direction.

        Undeterminable and Failed block a connection that goes out, where it is authorised (portmaster-kext section
        2.2), and drop what comes in, at the packet layer (2.3).
        """
        return self in _REJECTING or (direction == Direction.OUT and self in _UNKNOWABLE)

    @property
    def redirects(self) -> bool:
        """Whether a packet under this verdict goes to a port of this host instead."""
        return self in _REDIRECTS

    @property
    def decided(self) -> bool:
        """Whether this is an answer at all."""
        return self != 0

    @property
    def word(self) -> str:
        """The verdict as people read it: ``accept``, ``block``, ``drop``, ``redirect``, ``undecided``."""
        return _WORDS[self]


_REDIRECTS = frozenset({Verdict.REDIRECT_NAME_SERVER, Verdict.REDIRECT_TUNNEL, Verdict.REDIRECT_SPLIT_TUNNEL})
_PASSING = frozenset({Verdict.ACCEPT, Verdict.PERMANENT_ACCEPT}) | _REDIRECTS
_REJECTING = frozenset({Verdict.BLOCK, Verdict.PERMANENT_BLOCK})
_UNKNOWABLE = frozenset({Verdict.UNDETERMINABLE, Verdict.FAILED})
_PERMANENT = (
    frozenset(
        {
            Verdict.UNDETERMINABLE,
            Verdict.PERMANENT_ACCEPT,
            Verdict.PERMANENT_BLOCK,
            Verdict.PERMANENT_DROP,
            Verdict.FAILED,
        }
    )
    | _REDIRECTS
)
_WORDS = {
    Verdict.UNDECIDED: "undecided",
    Verdict.UNDETERMINABLE: "drop",
    Verdict.ACCEPT: "accept",
    Verdict.PERMANENT_ACCEPT: "accept",
    Verdict.BLOCK: "block",
    Verdict.PERMANENT_BLOCK: "block",
    Verdict.DROP: "drop",
    Verdict.PERMANENT_DROP: "drop",
    Verdict.REDIRECT_NAME_SERVER: "redirect",
    Verdict.REDIRECT_TUNNEL: "redirect",
    Verdict.FAILED: "drop",
    Verdict.REDIRECT_SPLIT_TUNNEL: "redirect",
}
