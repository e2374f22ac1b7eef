"""model/connection.py: what is known of a connection from its beginning."""

from __future__ import annotations

import gc
import sys
from dataclasses import astuple, dataclass, fields, replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import pairs_of_addresses, ports
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.name import NO_NAME, Name
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict

KEY = ConnectionKey(Protocol.TCP, ip_address("192.0.2.1"), 4000, ip_address("198.51.100.2"), 443)


@given(pairs_of_addresses(), ports, ports)
def test_its_remote_port_is_that_of_its_key(ends: tuple[Any, Any], local_port: int, remote_port: int) -> None:
    key = ConnectionKey(Protocol.UDP, ends[0], local_port, ends[1], remote_port)
    assert Connection(1, key, Direction.OUT).remote_port == remote_port


def test_at_first_nothing_is_known_but_its_ends() -> None:
    connection = Connection(7, KEY, Direction.OUT)
    assert (connection.id, connection.key, connection.direction) == (7, KEY, Direction.OUT)
    assert connection.process is UNKNOWN
    assert connection.verdict is Verdict.UNDECIDED
    assert (connection.rule, connection.tier) == ("", None)
    times = (connection.opened, connection.established, connection.ended)
    assert (*times, connection.sent, connection.received) == (0, 0, 0, 0, 0)


def test_it_changes_but_gets_no_new_fields() -> None:
    connection = Connection(1, KEY, Direction.IN)
    connection.verdict, connection.tier = Verdict.PERMANENT_BLOCK, Tier.PYTHON
    assert connection.verdict.word == "block"
    with pytest.raises(AttributeError):
        connection.reason = "none"  # type: ignore[attr-defined]


def test_its_fields_come_in_the_order_in_which_the_kernels_record_is_read() -> None:
    names = [field.name for field in fields(Connection)]
    assert names[:7] == ["id", "key", "direction", "process", "verdict", "rule", "tier"]
    assert names[7:13] == ["cookie", "opened", "established", "ended", "sent", "received"]


def test_tiers_are_the_words_of_the_events() -> None:
    assert [tier.value for tier in Tier] == ["cache", "kernel", "python"]
    assert f"{Tier.KERNEL}" == "kernel"


@dataclass(slots=True)
class Twin:
    """The same in Python alone."""

    id: int
    key: ConnectionKey
    direction: Direction
    process: Process = UNKNOWN
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
    interface: str = ""


u64 = st.integers(0, 2**64 - 1)
NUMBERS = ("id", "cookie", "opened", "established", "ended", "sent", "received", "decided")
FIRST = {"id": u64, "direction": st.sampled_from(Direction)}
VALUES = dict.fromkeys(NUMBERS[1:], u64) | {
    "process": st.builds(Process, st.integers(0, 9)),
    "verdict": st.sampled_from(Verdict),
    "rule": st.text(),
    "tier": st.none() | st.sampled_from(Tier),
    "epoch": st.integers(0, 2**32 - 1),
    "name": st.builds(Name, st.text()),
    "interface": st.text(),
}


@st.composite
def keys(draw: st.DrawFn) -> ConnectionKey:
    (local, remote), protocol = draw(pairs_of_addresses()), draw(st.integers(0, 255))
    return ConnectionKey(protocol, local, draw(ports), remote, draw(ports), draw(st.integers(0, 2**32 - 1)))


def same(one: Connection, twin: Twin) -> bool:
    return all(getattr(one, name.name) == getattr(twin, name.name) for name in fields(twin))


@given(keys(), st.fixed_dictionaries(FIRST, optional=VALUES), st.data())
def test_it_is_what_a_dataclass_would_be(
    key: ConnectionKey, given_: dict[str, Any], data: st.DataObject
) -> None:
    one, twin = Connection(key=key, **given_), Twin(key=key, **given_)
    assert same(one, twin)
    assert repr(one) == repr(twin).replace("Twin", "Connection", 1)
    for name in data.draw(st.lists(st.sampled_from(sorted(FIRST | VALUES)))):
        value = data.draw((FIRST | VALUES)[name])
        for changed in (one, twin):
            setattr(changed, name, value)
        assert same(one, twin)
    assert one.verdict is twin.verdict
    assert one.tier is twin.tier
    assert astuple(one)[3:] == astuple(twin)[3:]
    copy = replace(one)
    assert copy == one
    copy.id ^= 1
    assert copy != one


@given(keys())
def test_its_key_may_be_given_as_bytes(key: ConnectionKey) -> None:
    flow = key.pack()
    one = Connection(1, flow, Direction.OUT)
    assert one.flow is flow
    assert one.key == key
    assert one == Connection(1, key, Direction.OUT)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((1, KEY), TypeError),
        ((1, KEY, 7), TypeError),
        ((1, None, Direction.OUT), AttributeError),
        ((-1, KEY, Direction.OUT), OverflowError),
        ((1 << 64, KEY, Direction.OUT), OverflowError),
        (("1", KEY, Direction.OUT), TypeError),
        ((1, KEY, Direction.OUT, UNKNOWN, 5), TypeError),
        ((1, KEY, Direction.OUT, UNKNOWN, Verdict.DROP, None), TypeError),
        ((1, KEY, Direction.OUT, UNKNOWN, Verdict.DROP, "", "python"), TypeError),
        ((1, KEY, Direction.OUT, UNKNOWN, Verdict.DROP, "", None, *[0] * 8, NO_NAME, None), TypeError),
    ],
)
def test_what_is_no_connection(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        Connection(*arguments)


def test_what_it_holds_is_let_go() -> None:
    one = Connection(1, KEY.pack(), Direction.OUT)
    process = Process(77, arguments=("--let", "go"))
    before = sys.getrefcount(process)
    one.process = process
    many = [replace(one) for _ in range(10)]
    assert sys.getrefcount(process) == before + 11
    assert one in gc.get_referrers(process)
    del one, many
    assert sys.getrefcount(process) == before


def test_it_is_small() -> None:
    """A hundred thousand of them are promised to take at most 30 MB, with all that finds them: bench/memory.py."""
    assert sys.getsizeof(Connection(1, KEY, Direction.OUT)) <= 144


def test_the_epoch_has_32_bits() -> None:
    with pytest.raises(OverflowError):
        Connection(1, KEY, Direction.OUT, epoch=1 << 32)
