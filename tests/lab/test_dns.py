"""lab/dns.py: answers are what a resolver expects, and hostile bytes get none."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.lab import plan
from tidewaiter.lab.dns import answer


def ask(name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=True)
    reply = answer(query.to_wire())
    assert reply is not None
    response = dns.message.from_wire(reply)
    assert query.is_response(response)
    return response


@pytest.mark.parametrize("name", plan.NAMES)
def test_every_name_has_all_its_addresses(name: str) -> None:
    (four,) = ask(name, "A").answer
    (six,) = ask(name, "AAAA").answer
    assert {record.address for record in four} == {place.v4 for place in plan.NAMES[name]}
    assert {record.address for record in six} == {place.v6 for place in plan.NAMES[name]}


def test_answers_are_authoritative_and_recursion_is_there() -> None:
    response = ask("web.lab")
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RA


def test_case_does_not_matter() -> None:
    assert ask("WeB.LaB").answer


def test_another_type_of_a_known_name_has_no_records() -> None:
    response = ask("web.lab", "MX")
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("name", ["nowhere.lab", "example.org", "a.web.lab", "."])
def test_other_names_do_not_exist(name: str) -> None:
    assert ask(name).rcode() == dns.rcode.NXDOMAIN


def test_other_classes_and_operations() -> None:
    chaos = dns.message.make_query("web.lab", "A", "CH")
    update = dns.message.make_query("web.lab", "SOA")
    update.set_opcode(dns.opcode.STATUS)
    empty = dns.message.Message()
    for query, expected in (
        (chaos, dns.rcode.NXDOMAIN),
        (update, dns.rcode.NOTIMP),
        (empty, dns.rcode.FORMERR),
    ):
        reply = answer(query.to_wire())
        assert reply is not None
        assert dns.message.from_wire(reply).rcode() == expected


def test_a_response_is_not_answered() -> None:
    response = dns.message.make_response(dns.message.make_query("web.lab", "A"))
    assert answer(response.to_wire()) is None


@given(st.binary(max_size=80))
def test_hostile_bytes_are_answered_or_not(request_bytes: bytes) -> None:
    answer(request_bytes)


@given(st.integers(0, 44), st.integers(0, 255), st.integers(0, 40))
def test_a_damaged_request_is_answered_or_not(position: int, value: int, cut: int) -> None:
    wire = bytearray(dns.message.make_query("web.lab", "A", use_edns=True, id=1).to_wire())
    wire[position % len(wire)] = value
    answer(bytes(wire))
    answer(bytes(wire[:cut]))
