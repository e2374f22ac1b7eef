"""What can happen to one connection, and what the driver does then: a state machine, as a table.

For each event `Driver` looks here for the steps, and does them in the order of `Step`. It stores no state besides: that
of a connection follows from what is known and held (`Driver.state`). That every pair does what it says and leads where
it says is tried in tests/driver/test_states.py; docs/reference/states.md is made from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a connection can be."""

    UNKNOWN = "nobody has heard of it, or it is forgotten"
    UNDECIDED = "no verdict holds and nothing waits: its next packet is asked about"
    ASKED = "packets of it wait for a verdict"
    DECIDED = "a permanent verdict holds, and the kernel keeps it"
    ENDED = "it is over, and known for another minute"


class Happening(StrEnum):
    """What can happen to it."""

    PACKET = "a packet of it is held"
    NEWER_QUESTION = "a packet of it is held by another policy than before, or after ClearCache"
    VERDICT = "a permanent verdict on one of its packets: by its owner, by time-out, or by the rundown"
    VERDICT_ONCE = "such a verdict that is not permanent"
    VERDICT_ON_PACKET = (
        "a verdict on a packet of a protocol where each is decided by itself (neither TCP nor UDP)"
    )
    NO_VERDICT = "Undecided as the verdict on one of its packets"
    UPDATE = "an update with a permanent verdict"
    UPDATE_ONCE = "an update with Undecided, or another verdict that is not permanent"
    KERNEL_DECIDES = "the kernel, or the host on sight, has given it a permanent verdict"
    KERNEL_ASKS = "the kernel tells of it, without a permanent verdict"
    REFUSED = "the kernel has refused it at connect()"
    ESTABLISHED = "the other end has answered"
    GIVES_WAY = "its oldest packet gives way to a newer one: the packet cache is full"
    EMPTIED = "the last of its packets has gone"
    CLOSED = "its socket is closed; it has none and was idle for ten minutes; its flow is another's now"
    EVICTED = "it gives way to a newer one: the connection cache is full"
    AGED = "its minute is over, or too many have ended since"


class Step(StrEnum):
    """What the driver does, in this order."""

    BEGIN = "take it up as a new connection"
    REOPEN = "forget its verdict"
    LEARN = "make the verdict its own"
    HOLD = "keep the packet, and ask the owner"
    REMEMBER = "give the kernel the verdict for its packets"
    RENEW = "replace the verdict that the kernel keeps"
    RELEASE = "let the packet go by the verdict"
    RELEASE_ALL = "let all its packets go by the verdict, in order"
    THROW_AWAY = "drop the packet"
    ABANDON = "drop all its packets"
    TELL_DECIDED = "tell that it is decided, where that is news"
    TELL_ESTABLISHED = "tell that it is established, once"
    TELL_ENDED = "tell that it has ended, with its totals"
    FORGET = "forget it"


class Transition(NamedTuple):
    """Where a connection goes, and what is done on the way."""

    state: State
    steps: tuple[Step, ...]


def _to(state: State, *steps: Step) -> Transition:
    return Transition(state, steps)


_UNKNOWN, _UNDECIDED, _ASKED, _DECIDED, _ENDED = State
_H, _S = Happening, Step

_BEGIN = {
    _H.PACKET: _to(_ASKED, _S.BEGIN, _S.REOPEN, _S.HOLD),
    _H.NEWER_QUESTION: _to(_ASKED, _S.BEGIN, _S.REOPEN, _S.HOLD),
    _H.KERNEL_DECIDES: _to(_DECIDED, _S.BEGIN, _S.LEARN, _S.TELL_DECIDED),
    _H.KERNEL_ASKS: _to(_UNDECIDED, _S.BEGIN, _S.LEARN, _S.TELL_DECIDED),
}

CHANGES: Mapping[State, Mapping[Happening, Transition]] = {
    _UNKNOWN: {
        **_BEGIN,
        _H.REFUSED: _to(_UNKNOWN, _S.LEARN, _S.TELL_DECIDED, _S.TELL_ENDED),
    },
    _UNDECIDED: {
        _H.PACKET: _to(_ASKED, _S.HOLD),
        _H.NEWER_QUESTION: _to(_ASKED, _S.HOLD),
        _H.UPDATE: _to(_DECIDED, _S.LEARN, _S.RENEW, _S.TELL_DECIDED),
        _H.UPDATE_ONCE: _to(_UNDECIDED, _S.REOPEN, _S.RENEW),
        _H.KERNEL_DECIDES: _to(_DECIDED, _S.LEARN, _S.TELL_DECIDED),
        _H.KERNEL_ASKS: _to(_UNDECIDED, _S.LEARN, _S.TELL_DECIDED),
        _H.ESTABLISHED: _to(_UNDECIDED, _S.TELL_ESTABLISHED),
        _H.CLOSED: _to(_ENDED, _S.TELL_ENDED),
        _H.EVICTED: _to(_UNKNOWN, _S.FORGET),
    },
    _ASKED: {
        _H.PACKET: _to(_ASKED, _S.HOLD),
        _H.NEWER_QUESTION: _to(_ASKED, _S.HOLD),
        _H.VERDICT: _to(_DECIDED, _S.LEARN, _S.REMEMBER, _S.RELEASE_ALL, _S.TELL_DECIDED),
        _H.VERDICT_ONCE: _to(_ASKED, _S.REMEMBER, _S.RELEASE),
        _H.VERDICT_ON_PACKET: _to(_ASKED, _S.LEARN, _S.REMEMBER, _S.RELEASE, _S.TELL_DECIDED),
        _H.UPDATE: _to(_DECIDED, _S.LEARN, _S.REMEMBER, _S.RELEASE_ALL, _S.TELL_DECIDED),
        _H.UPDATE_ONCE: _to(_ASKED, _S.REOPEN, _S.RENEW),
        _H.KERNEL_DECIDES: _to(_DECIDED, _S.LEARN, _S.RELEASE_ALL, _S.TELL_DECIDED),
        _H.KERNEL_ASKS: _to(_ASKED, _S.LEARN, _S.TELL_DECIDED),
        _H.ESTABLISHED: _to(_ASKED, _S.TELL_ESTABLISHED),
        _H.GIVES_WAY: _to(_ASKED, _S.THROW_AWAY),
        _H.EMPTIED: _to(_UNDECIDED),
        _H.CLOSED: _to(_ENDED, _S.ABANDON, _S.TELL_ENDED),
        _H.EVICTED: _to(_UNKNOWN, _S.ABANDON, _S.FORGET),
    },
    _DECIDED: {
        _H.PACKET: _to(_DECIDED, _S.REMEMBER, _S.RELEASE),
        _H.NEWER_QUESTION: _to(_ASKED, _S.REOPEN, _S.HOLD),
        _H.UPDATE: _to(_DECIDED, _S.LEARN, _S.RENEW, _S.TELL_DECIDED),
        _H.UPDATE_ONCE: _to(_UNDECIDED, _S.REOPEN, _S.RENEW),
        _H.KERNEL_DECIDES: _to(_DECIDED, _S.LEARN, _S.TELL_DECIDED),
        _H.KERNEL_ASKS: _to(_UNDECIDED, _S.LEARN, _S.TELL_DECIDED),
        _H.ESTABLISHED: _to(_DECIDED, _S.TELL_ESTABLISHED),
        _H.CLOSED: _to(_ENDED, _S.TELL_ENDED),
        _H.EVICTED: _to(_UNKNOWN, _S.FORGET),
    },
    _ENDED: {
        **_BEGIN,
        _H.EVICTED: _to(_UNKNOWN, _S.FORGET),
        _H.AGED: _to(_UNKNOWN, _S.FORGET),
    },
}
"""Where something happens. Every other pair changes nothing."""

STEPS: Mapping[State, Mapping[Happening, tuple[Step, ...]]] = {
    state: {happening: changes[happening].steps if happening in changes else () for happening in Happening}
    for state, changes in CHANGES.items()
}
"""The steps of every pair."""
