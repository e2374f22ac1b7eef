"""kernel/records.py: bytes of the kernel, as the model's words."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ, Made, packets, pairs_of_addresses, ports
from tidewaiter.host.queue import flow_of
from tidewaiter.kernel import _native, records
from tidewaiter.kernel.records import Event, EventKind, Flag, Home, Record
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Address, ConnectionKey, Direction, address
from tidewaiter.model.packet import build_udp, parse_packet
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict

u8, u16 = st.integers(0, 255), st.integers(0, 65535)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
NUMBERS = {"pid": u32, "uid": u32, "program": u32, "started": u64, "cgroup": u64, "cookie": u64}
TIMES = {"opened": u64, "established": u64, "used": u64, "sent": u64, "received": u64}


@st.composite
def drawn(draw: st.DrawFn) -> Record:
    local, remote = draw(pairs_of_addresses())
    fields = {name: draw(number) for name, number in (NUMBERS | TIMES).items()}
    return Record(
        **fields,
        gid=0,
        image=draw(u32),
        version=draw(u32),
        epoch=draw(u32),
        rule=draw(st.just(records.NO_RULE) | st.integers(0, 255)),
        namespace=draw(u32),
        verdict=draw(st.sampled_from(Verdict)),
        tier=draw(st.sampled_from([0, *records.TIERS])),
        direction=draw(st.sampled_from(Direction)),
        flags=draw(u8),
        local=records.address_bytes(local),
        remote=records.address_bytes(remote),
        family=local.version,
        protocol=draw(st.sampled_from([6, 17])),
        local_port=draw(ports),
        remote_port=draw(ports),
        home=draw(st.sampled_from(Home)),
    )


def pack(record: Record) -> bytes:
    """The bytes of struct tw_connection, by the names of its fields."""
    owner = Record._fields[: Record._fields.index("cookie")]
    fields = {f"owner_{name}" if name in owner else name: value for name, value in record._asdict().items()}
    return records.CONNECTION.pack(fields)


@given(drawn())
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    data = pack(record)
    assert len(data) == records.CONNECTION_SIZE
    assert records.unpack(data) == record


@given(drawn(), st.sampled_from(EventKind), u64)
def test_an_event_carries_a_connection(record: Record, kind: EventKind, time: int) -> None:
    data = struct.pack("<QII", time, kind, 0) + pack(record)
    assert len(data) == records.EVENT.size
    found = records.event(data)
    assert found == Event(kind=kind, connection=pack(record), time=time)
    assert data[records.EVENT_FLOW] == found.connection[records.FLOW]
    assert data[records.EVENT_KIND] == kind


@given(pairs_of_addresses())
def test_addresses_come_back_as_they_were(addresses: tuple[Address, Address]) -> None:
    for one in addresses:
        data = records.address_bytes(one)
        assert len(data) == 16
        assert address(data, one.version) == one


def test_an_ipv4_address_takes_the_first_four_bytes() -> None:
    assert records.address_bytes(IPv4Address("192.0.2.1")) == b"\xc0\0\2\1" + bytes(12)
    assert address(b"\xc0\0\2\1" + bytes(12), 4) == IPv4Address("192.0.2.1")
    assert address(bytes(15) + b"\1", 6) == IPv6Address("::1")


@given(drawn())
def test_the_model_says_the_same(record: Record) -> None:
    process = Process(pid=record.pid, path="/bin/x")
    names = tuple(f"rule {number}" for number in range(100))
    flow = pack(record)[records.FLOW]
    found = records.connection(flow, record, process, names)
    assert found.flow is flow
    assert (found.key.protocol, found.key.namespace) == (record.protocol, record.namespace)
    assert (found.key.local_port, found.key.remote_port) == (record.local_port, record.remote_port)
    assert records.address_bytes(found.key.local) == record.local
    assert records.address_bytes(found.key.remote) == record.remote
    assert found.process is process
    assert (found.verdict, found.direction) == (record.verdict, record.direction)
    assert type(found.verdict) is Verdict
    assert type(found.direction) is Direction
    assert found.tier == records.TIERS.get(record.tier)
    assert found.rule == (f"rule {record.rule}" if record.rule < 100 else "")
    assert (found.opened, found.established, found.ended) == (record.opened, record.established, 0)
    assert (found.sent, found.received, found.cookie) == (record.sent, record.received, record.cookie)
    assert found.id == 0


NAMES = tuple(f"rule {number}" for number in range(100))


@given(drawn())
def test_a_process_is_named_by_its_part_of_the_record(record: Record) -> None:
    data, fields = pack(record), records.CONNECTION
    group, image = fields.offset("owner_gid") + 4, fields.offset("owner_image")
    assert records.owner(record) == data[:group] + data[image : image + 4]


@given(drawn())
def test_the_native_twin_makes_the_same_connection(record: Record) -> None:
    data, process = pack(record), Process(pid=record.pid)
    flow = data[records.FLOW]
    expected = records.connection(flow, record, process, NAMES)
    found = _native.connection(Connection, flow, data, {records.owner(record): process}, NAMES)
    assert found == expected
    assert type(found) is Connection
    assert found.flow is flow
    assert found.process is process
    assert (found.name, found.key) == (expected.name, expected.key)
    assert _native.connection(Connection, flow, data, {}, NAMES) is None


@given(
    st.binary(max_size=400) | st.binary(min_size=records.CONNECTION_SIZE, max_size=records.CONNECTION_SIZE)
)
@settings(max_examples=300 * FUZZ)
def test_no_bytes_make_a_connection_that_cannot_be(data: bytes) -> None:
    owner = records.owner(records.unpack(data)) if len(data) == records.CONNECTION_SIZE else b""
    flow = data[records.FLOW]
    try:
        found = _native.connection(Connection, flow, data, {owner: UNKNOWN}, NAMES)
    except ValueError as error:
        text = f"struct tw_connection has {records.CONNECTION_SIZE} bytes, not {len(data)}"
        numbers = [f"the {kind} of a connection is not number" for kind in ("direction", "verdict", "tier")]
        assert str(error) == text or str(error).rpartition(" ")[0] in numbers
        assert str(error) == text or owner
    else:
        assert found == records.connection(flow, records.unpack(data), UNKNOWN, NAMES)


def test_what_is_made_is_a_connection() -> None:
    data = bytes(records.CONNECTION_SIZE)
    owner = records.owner(records.unpack(data))
    for kind in (int, object, Process):
        with pytest.raises(TypeError, match="what is made is no connection"):
            _native.connection(kind, b"", data, {owner: UNKNOWN}, ())  # type: ignore[arg-type]
    connection: Any = _native.connection
    wrong: tuple[Any, ...]
    for wrong in ((1, b"", data, {}, ()), (Connection, "", data, {}, ()), (Connection, b"", data, (), {})):
        with pytest.raises(TypeError):
            connection(*wrong)


@given(drawn())
def test_of_a_connection_its_ends_and_its_socket_are_put_together_again(record: Record) -> None:
    data = pack(record)
    found = records.of_connection(records.connection(data[records.FLOW], record, UNKNOWN))
    assert len(found) == records.CONNECTION_SIZE
    for part in (records.FLOW, records.COOKIE):
        assert found[part] == data[part]
    assert records.ends_with_socket(found) == records.ends_with_socket(data)
    assert records.key_by_peer(records.unpack(found)) == records.key_by_peer(record)


@given(packets(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=300 * FUZZ)
def test_a_packets_flow_is_that_of_its_connection(made: Made, namespace: int, incoming: bool) -> None:
    found = flow_of(made.data, namespace, incoming=incoming)
    if made.later_fragment:
        assert found == b""
        return
    here, there = (
        (made.source, made.transport.source_port),
        (made.destination, made.transport.destination_port),
    )
    if incoming:
        here, there = there, here
    record = Record._make([0] * len(Record._fields))._replace(
        namespace=namespace,
        local=records.address_bytes(here[0]),
        remote=records.address_bytes(there[0]),
        local_port=here[1],
        remote_port=there[1],
        family=made.source.version,
        protocol=made.transport.protocol,
    )
    data = pack(record)
    assert found == data[records.FLOW]
    unknown = records.connection_of_packet(parse_packet(made.data), incoming, namespace)
    assert unknown.flow == found
    assert unknown.key == ConnectionKey.unpack(found)
    assert unknown.process is UNKNOWN
    assert unknown.direction == (Direction.IN if incoming else Direction.OUT)


@given(drawn(), st.sampled_from(Verdict), st.sampled_from(Tier), u32)
def test_an_answer_changes_rule_verdict_and_tier_only(
    record: Record, verdict: Verdict, tier: Tier, rule: int
) -> None:
    data = pack(record)
    answered = records.answered(data, verdict, tier, rule)
    expected = record._replace(verdict=verdict, tier=records.TIER_NUMBERS[tier], rule=rule)
    assert records.unpack(answered) == expected
    assert records.unpack(records.answered(data, verdict, tier)).rule == records.NO_RULE


@given(drawn())
def test_the_key_of_a_flow_is_the_structure_of_the_kernel(record: Record) -> None:
    by_peer = records.FLOW_KEY.unpack(records.key_by_peer(record))
    ends = {"remote": record.remote, "remote_port": record.remote_port}
    kind = {"family": record.family, "protocol": record.protocol, "unused": 0}
    nowhere = {"local": bytes(16), "local_port": 0}
    assert by_peer == {"scope": record.cookie, **ends, **kind, **nowhere}
    by_addresses = records.FLOW_KEY.unpack(records.key_by_addresses(pack(record)[records.FLOW]))
    here = {"local": record.local, "local_port": record.local_port}
    assert by_addresses == {"scope": 1 << 63 | record.namespace, **ends, **kind, **here}


@given(drawn())
def test_slices_cut_out_what_they_are_named_after(record: Record) -> None:
    data = pack(record)
    assert int.from_bytes(data[records.COOKIE], "little") == record.cookie
    assert data[records.HOME] == record.home
    assert data[records.FLOW][:4] == record.namespace.to_bytes(4, "little")
    assert len(data[records.FLOW]) == 42


def test_flags_are_told_apart() -> None:
    assert Flag.CONNECTED | Flag.ADOPTED == 65
    assert len({flag.value for flag in Flag}) == len(Flag)


@pytest.mark.parametrize("direction", [Direction.OUT, Direction.IN])
def test_a_packet_of_which_the_kernel_told_nothing(direction: Direction) -> None:
    source, destination = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
    data = build_udp(source, destination, 1000, 53, b"?")
    found = records.connection_of_packet(parse_packet(data), direction is Direction.IN, 3)
    assert found.direction is direction
    out = direction is Direction.OUT
    assert found.key.local == (source if out else destination)
    assert found.key.remote_port == (53 if out else 1000)
    assert found.key.namespace == 3
    assert _native.parse(data)[0] == 4


@given(
    st.binary(min_size=records.CONNECTION_SIZE, max_size=records.CONNECTION_SIZE), st.integers(0, 2**32 - 1)
)
def test_another_epoch_changes_nothing_else(data: bytes, epoch: int) -> None:
    assert records.unpack(records.of_epoch(data, epoch)) == records.unpack(data)._replace(epoch=epoch)
