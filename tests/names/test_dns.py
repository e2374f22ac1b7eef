"""names/dns.py: the same as dnspython reads, and hostile bytes end in one sentence, soon."""

from __future__ import annotations

import base64
import struct
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.lab.dns import answer as lab_answer
from tidewaiter.names.dns import (
    RECORDS,
    WORK,
    Frames,
    Kind,
    MalformedMessage,
    Message,
    Question,
    Record,
    Service,
    parse_message,
)

# An ECHConfigList with one configuration (RFC 9849 section 4): X25519, one suite, and the name of the front.
_CONTENT = b"\x01\0\x20\0\x20" + bytes(32) + b"\0\4\0\1\0\1\0\x0dfront.example\0\0"
_CONFIG = b"\xfe\x0d" + len(_CONTENT).to_bytes(2, "big") + _CONTENT
ECH = base64.b64encode(len(_CONFIG).to_bytes(2, "big") + _CONFIG).decode()
HEADER = struct.Struct("!6H")


def reply(name: str, kind: str, *rrsets: tuple[str, int, str, list[str]]) -> dns.message.Message:
    """An answer as resolvers give it, with EDNS."""
    message = dns.message.make_response(dns.message.make_query(name, kind, use_edns=True))
    for owner, ttl, type_, texts in rrsets:
        message.answer.append(dns.rrset.from_text_list(owner, ttl, "IN", type_, texts))
    return message


CHAIN = reply(
    "www.Example.com.",
    "A",
    ("www.example.com.", 300, "CNAME", ["edge.cdn.example.net."]),
    ("edge.cdn.example.net.", 60, "CNAME", ["pop7.cdn.example.net."]),
    ("pop7.cdn.example.net.", 20, "A", ["192.0.2.7", "192.0.2.8"]),
)


def test_a_chain_of_aliases() -> None:
    message = parse_message(CHAIN.to_wire())
    assert (message.id, message.response, message.code, message.truncated) == (CHAIN.id, True, 0, False)
    assert message.questions == (Question("www.example.com", Kind.A),)
    assert set(message.records) == {  # dnspython shuffles
        Record("www.example.com", Kind.CNAME, 300, "edge.cdn.example.net"),
        Record("edge.cdn.example.net", Kind.CNAME, 60, "pop7.cdn.example.net"),
        Record("pop7.cdn.example.net", Kind.A, 20, ip_address("192.0.2.7")),
        Record("pop7.cdn.example.net", Kind.A, 20, ip_address("192.0.2.8")),
    }


def test_services_with_hints() -> None:
    made = reply(
        "example.com.",
        "HTTPS",
        (
            "example.com.",
            60,
            "HTTPS",
            [f"1 . alpn=h3,h2 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1 ech={ECH}"],
        ),
        ("_dns.example.com.", 60, "SVCB", ["0 dns.example.net."]),
    )
    hints = tuple(map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1")))
    assert [record.value for record in parse_message(made.to_wire()).records] == [
        Service(1, "", hints),
        Service(0, "dns.example.net"),
    ]


def test_other_records_are_passed_over() -> None:
    made = reply("example.com.", "MX", ("example.com.", 60, "MX", ["10 mail.example.com."]))
    made.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "A", "192.0.2.99"))
    made.additional.append(dns.rrset.from_text("mail.example.com.", 60, "IN", "AAAA", "2001:db8::25"))
    chaos = dns.rrset.from_text("version.bind.", 0, "CH", "TXT", '"none"')
    made.additional.append(chaos)
    assert parse_message(made.to_wire()).records == (
        Record("mail.example.com", Kind.AAAA, 60, ip_address("2001:db8::25")),
    )


def test_odd_bytes_in_a_label_are_escaped() -> None:
    name = dns.name.Name([b"A.b", b"c\\\0\xff*", b""])
    query = dns.message.make_query(name, "A")
    assert parse_message(query.to_wire()).questions[0].name == "a\\046b.c\\092\\000\\255\\042"


def test_the_root_and_refusals() -> None:
    refused = dns.message.make_response(dns.message.make_query(".", "NS"))
    refused.set_rcode(dns.rcode.NXDOMAIN)
    message = parse_message(refused.to_wire())
    assert (message.questions[0].name, message.code, message.records) == (".", 3, ())


def test_a_cut_answer_is_read_as_far_as_it_goes() -> None:
    wire = bytearray(CHAIN.to_wire())
    with pytest.raises(MalformedMessage, match="a record is cut"):
        parse_message(bytes(wire[:-13]))
    wire[2] |= 0x02
    cut = parse_message(bytes(wire[:-13]))
    assert cut.truncated
    assert len(cut.records) == 3


def test_an_answer_of_the_lab() -> None:
    wire = lab_answer(dns.message.make_query("all.lab", "AAAA").to_wire())
    assert wire is not None
    records = parse_message(wire).records
    assert {str(record.value) for record in records} == {f"fd77::{last}" for last in (10, 11, 12, 13)}
    assert {record.owner for record in records} == {"all.lab"}


@pytest.mark.parametrize(("ttl", "seen"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)])
def test_a_lifetime_with_its_first_bit_set_is_none(ttl: int, seen: int) -> None:
    wire = (
        HEADER.pack(1, 0x8000, 0, 1, 0, 0) + b"\x01a\0" + struct.pack("!HHIH4s", 1, 1, ttl, 4, b"\xc0\0\2\1")
    )
    assert parse_message(wire).records[0].ttl == seen


def one(name: bytes, count: int = 1) -> bytes:
    """A question of one name, in bytes."""
    return HEADER.pack(1, 0, count, 0, 0, 0) + (name + b"\0\1\0\1") * count


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"", "too few"),
        (bytes(11), "too few"),
        (one(b"\xc0\x0c"), "does not lead back"),
        (one(b"\xc0\x0e"), "does not lead back"),
        (one(b"\xc0\x04"), "does not lead back"),
        (one(b"\x01a\xc0\x0c"), "does not lead back"),
        (one(b"\x40" + bytes(64)), "no meaning"),
        (one(b"\x85aaaaa\0"), "no meaning"),
        (one(b"\x3f" + bytes(63)) + b"", "cut"),
        (one((b"\x3f" + b"a" * 63) * 4 + b"\0"), "longer than 255"),
        (HEADER.pack(1, 0, 65535, 0, 0, 0), "65535 questions"),
        (HEADER.pack(1, 0, 0, 65535, 0, 0) + (b"\0" + bytes(10)) * 400, f"more than {RECORDS} records"),
        (
            HEADER.pack(1, 0, 0, 1, 0, 0) + b"\0" + struct.pack("!HHIH3s", 1, 1, 0, 3, b"abc"),
            "A record of . is cut",
        ),
        (HEADER.pack(1, 0, 0, 1, 0, 0) + b"\0" + struct.pack("!HHIH5s", 1, 1, 0, 5, b"abcde"), "too long"),
    ],
)
def test_what_is_no_message(wire: bytes, said: str) -> None:
    with pytest.raises(MalformedMessage, match=said):
        parse_message(wire)


def test_pointers_upon_pointers_have_an_end() -> None:
    # A ladder of pointers in the content of one record, each to the one before it; then names at its top.
    steps = 8000
    ladder = b"\x01a\0\0" + b"".join(struct.pack("!H", 0xC000 | 23 + 2 * step) for step in range(1, steps))
    head = HEADER.pack(1, 0x8000, 0, 200, 0, 0) + b"\0" + struct.pack("!HHIH", 16, 1, 0, len(ladder))
    top = struct.pack("!H", 0xC000 | 23 + 2 * steps)
    wire = head + ladder + (top + struct.pack("!HHIH", 16, 1, 0, 0)) * 199
    with pytest.raises(MalformedMessage, match=f"more than {WORK} labels"):
        parse_message(wire)


LABELS = st.binary(min_size=1, max_size=12) | st.sampled_from([b"www", b"Example", b"com", b"cdn"])
NAMES = st.lists(LABELS, max_size=6).map(lambda labels: dns.name.Name([*labels, b""]))


def spelled(name: dns.name.Name) -> str:
    """A name of dnspython as it is spelled here."""
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
    return (
        ".".join(
            "".join(chr(byte) if byte in plain else f"\\{byte:03}" for byte in label.lower())
            for label in name.labels[:-1]
        )
        or "."
    )


@st.composite
def messages(draw: st.DrawFn) -> dns.message.Message:
    """Answers of many kinds, as dnspython makes them."""
    message = dns.message.make_response(
        dns.message.make_query(draw(NAMES), draw(st.sampled_from(["A", "HTTPS"])))
    )
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["A", "AAAA", "CNAME", "MX", "TXT", "HTTPS"]))
        content = {
            "A": draw(st.ip_addresses(v=4)),
            "AAAA": draw(st.ip_addresses(v=6)),
            "CNAME": draw(NAMES).to_text(),
            "MX": f"10 {draw(NAMES).to_text()}",
            "TXT": '"text"',
            "HTTPS": f"1 {draw(NAMES).to_text()} alpn=h2 ipv4hint={draw(st.ip_addresses(v=4))}",
        }[kind]
        rdata = dns.rdata.from_text("IN", kind, str(content))
        owner = draw(NAMES)
        section = draw(st.sampled_from([message.answer, message.additional]))
        section.append(dns.rrset.from_rdata(owner, draw(st.integers(0, 2**31 - 1)), rdata))
    return message


def expected(message: dns.message.Message) -> list[Record]:
    """What dnspython has read, as records of ours."""
    found = []
    for rrset in [*message.answer, *message.additional]:
        if int(rrset.rdtype) not in set(Kind):
            continue
        for item in rrset:
            kind = Kind(rrset.rdtype)
            value: object
            if kind is Kind.CNAME:
                value = spelled(item.target)
            elif kind is Kind.HTTPS:
                hints = tuple(map(ip_address, item.params[4].addresses))
                target = spelled(item.target)
                value = Service(item.priority, "" if target == "." else target, hints)
            else:
                value = ip_address(item.address)
            found.append(Record(spelled(rrset.name), kind, rrset.ttl, value))
    return found


@given(messages())
@settings(max_examples=100 * FUZZ)
def test_dnspython_reads_the_same(made: dns.message.Message) -> None:
    try:
        wire = made.to_wire()
    except dns.exception.DNSException:
        assume(False)
    message = parse_message(wire)
    assert message.questions[0].name == spelled(made.question[0].name)
    again = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert list(message.records) == expected(again)


@given(messages(), st.data())
@settings(max_examples=200 * FUZZ)
def test_damaged_messages_are_read_or_refused(made: dns.message.Message, data: st.DataObject) -> None:
    try:
        wire = bytearray(made.to_wire())
    except dns.exception.DNSException:
        assume(False)
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255) | st.just(0xC0))
    reads(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


@given(
    st.binary(max_size=400).map(lambda data: HEADER.pack(0, 0x8000, 1, 9, 9, 9) + data)
    | st.binary(max_size=40)
)
@settings(max_examples=200 * FUZZ)
def test_any_bytes_are_read_or_refused(wire: bytes) -> None:
    reads(wire)


def reads(wire: bytes) -> None:
    try:
        message = parse_message(wire)
    except MalformedMessage as error:
        assert "\n" not in str(error)
        return
    assert isinstance(message, Message)
    assert all(len(record.owner) <= 4 * 255 for record in message.records)


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_frames_survive_any_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = Frames()
    found = [
        message
        for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for message in frames.feed(stream[low:high])
    ]
    assert found == messages
