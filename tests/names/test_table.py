"""names/table.py: who asked tells names apart, and each has its end."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.model.key import Address
from tidewaiter.names.dns import Kind, Message, Question, Record, Service
from tidewaiter.names.table import (
    ADDRESS,
    ANSWERS,
    GRACE,
    LINKS,
    LONGEST,
    NAMES,
    SECOND,
    SHORTEST,
    Asker,
    Known,
    Table,
)

ONE, TWO = ip_address("192.0.2.1"), ip_address("2001:db8::2")
CURL, WGET = Asker(1, "/usr/bin/curl"), Asker(1, "/usr/bin/wget")
Link = tuple[str, str | Address | Service] | tuple[str, str | Address | Service, int]


def answer(asked: str, *links: Link, code: int = 0, response: bool = True) -> Message:
    """An answer to ``asked``: owners with what they have, and lifetimes (300 seconds)."""
    records = []
    for owner, value, *ttl in links:
        kind = Kind.CNAME if isinstance(value, str) else Kind.A
        if isinstance(value, Service):
            kind = Kind.HTTPS
        records.append(Record(owner, kind, ttl[0] if ttl else 300, value))
    return Message(1, response, code, False, (Question(asked, Kind.A),), tuple(records))


def names(table: Table, asker: Asker, address: Address = ONE, now: int = 0) -> list[str]:
    """What an address is called."""
    return [known.name for known in table.find(asker, address, now)]


def test_two_programs_with_different_names_for_one_address_are_told_apart() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ONE)), 0)
    table.learn(WGET, answer("b.example", ("b.example", ONE)), 0)
    assert (names(table, CURL), names(table, WGET)) == (["a.example"], ["b.example"])
    assert names(table, Asker(1, "/usr/bin/nc")) == []


def test_two_namespaces_are_told_apart() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ONE)), 0)
    assert names(table, Asker(2, "/usr/bin/curl")) == []


def test_what_all_share_counts_only_for_who_has_nothing_of_its_own() -> None:
    table = Table()
    table.learn(Asker(1), answer("shared.example", ("shared.example", ONE)), 0)
    table.learn(WGET, answer("own.example", ("own.example", ONE)), 0)
    assert table.find(CURL, ONE, 0) == (Known("shared.example", (), 300 * SECOND, own=False),)
    assert table.find(WGET, ONE, 0) == (Known("own.example", (), 300 * SECOND),)
    assert names(table, Asker(2, "/usr/bin/curl")) == []


def test_every_link_of_a_chain_is_kept_and_the_shortest_lifetime_counts() -> None:
    table = Table()
    chain = answer(
        "www.example",
        ("www.example", "edge.example", 900),
        ("edge.example", "pop.example", 120),
        ("pop.example", ONE, 600),
        ("pop.example", TWO, 600),
    )
    learnt = table.learn(CURL, chain, 5)
    known = Known("www.example", ("edge.example", "pop.example"), 5 + 120 * SECOND)
    assert learnt == [(ONE, known), (TWO, known)]
    for address in (ONE, TWO):
        assert table.find(CURL, address, 5) == (
            Known("www.example", ("edge.example", "pop.example"), 5 + 120 * SECOND),
        )


def test_the_order_of_records_does_not_matter() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("b.example", ONE), ("a.example", "b.example")), 0)
    assert table.find(CURL, ONE, 0)[0][:2] == ("a.example", ("b.example",))


def test_services_lead_to_their_hints_and_targets() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", Service(1, "", (ONE,)))), 0)
    target = Service(1, "b.example", (TWO,))
    table.learn(WGET, answer("a.example", ("a.example", target), ("b.example", ONE)), 0)
    assert table.find(CURL, ONE, 0)[0][:2] == ("a.example", ())
    assert [table.find(WGET, address, 0)[0][:2] for address in (ONE, TWO)] == [
        ("a.example", ("b.example",))
    ] * 2


def test_what_the_question_does_not_lead_to_is_not_believed() -> None:
    table = Table()
    assert table.learn(CURL, answer("a.example", ("bank.example", ONE), ("x.example", "a.example")), 0) == []
    assert table.learn(CURL, answer("a.example", ("a.example", ONE), code=3), 0) == []
    assert table.learn(CURL, answer("a.example", ("a.example", ONE), response=False), 0) == []
    assert table.learn(CURL, answer("a.example", ("a.example", ONE))._replace(questions=()), 0) == []
    assert len(table) == 0


def test_circles_and_endless_chains_end() -> None:
    table = Table()
    circle = answer("a", ("a", "b"), ("b", "a"), ("b", ONE), ("a", "a"))
    assert len(table.learn(CURL, circle, 0)) == 1
    assert table.find(CURL, ONE, 0)[0].chain == ("b",)
    long = [(f"n{number}", f"n{number + 1}") for number in range(99)]
    assert table.learn(WGET, answer("n0", *long, ("n99", ONE)), 0) == []
    assert len(table.learn(WGET, answer("n0", *long, (f"n{LINKS - 1}", ONE)), 0)) == 1


@pytest.mark.parametrize(
    ("ttl", "life"), [(0, SHORTEST), (61, 61 * SECOND), (86_400, LONGEST), (2**31 - 1, LONGEST)]
)
def test_a_name_expires(ttl: int, life: int) -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ONE, ttl)), 7)
    assert names(table, CURL, now=7 + life - 1) == ["a.example"]
    assert names(table, CURL, now=7 + life) == []
    assert (len(table), table._askers) == (0, {})


def test_a_name_lasts_while_a_connection_does_and_a_little_longer() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ONE)), 0)
    table.opened(CURL, ONE, 1)
    table.opened(CURL, ONE, 2)
    late = LONGEST * 5
    assert table.expire(late) == 0
    table.closed(CURL, ONE, late)
    assert names(table, CURL, now=late + GRACE) == ["a.example"]
    table.closed(CURL, ONE, late)
    table.closed(CURL, ONE, late + 1)  # one too many is none
    assert names(table, CURL, now=late + GRACE - 1) == ["a.example"]
    assert table.expire(late + GRACE) == 1
    assert names(table, CURL, now=late + GRACE) == []


def test_learning_again_renews_and_never_shortens() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ONE, 600)), 0)
    table.learn(CURL, answer("b.example", ("b.example", ONE, 600)), 0)
    assert names(table, CURL) == ["b.example", "a.example"]
    table.learn(CURL, answer("a.example", ("a.example", ONE, 0)), 0)
    assert [(known.name, known.until) for known in table.find(CURL, ONE, 0)] == [
        ("a.example", 600 * SECOND),
        ("b.example", 600 * SECOND),
    ]


def test_ipv4_in_ipv6_is_ipv4() -> None:
    table = Table()
    table.learn(CURL, answer("a.example", ("a.example", ip_address("::ffff:192.0.2.1"))), 0)
    assert names(table, CURL, ONE) == ["a.example"]


def addresses(table: Table, asker: Asker, count: int) -> list[int]:
    """Which of so many addresses still have names."""
    return [number for number in range(count) if names(table, asker, ip_address(number + 1))]


def test_the_least_recently_used_address_gives_way() -> None:
    table = Table(room=3 * (ADDRESS + 9))
    for number in range(3):
        table.learn(CURL, answer("a.example", ("a.example", ip_address(number + 1))), 0)
    assert names(table, CURL, ip_address(1))
    table.learn(CURL, answer("a.example", ("a.example", ip_address(4))), 0)
    assert (table.gave_way, len(table)) == (1, 3)
    assert addresses(table, CURL, 4) == [0, 2, 3]


def test_who_has_the_most_gives_way() -> None:
    table = Table(room=1000)
    table.learn(WGET, answer("a.example", ("a.example", ONE)), 0)
    for number in range(99):
        table.learn(CURL, answer("b.example", ("b.example", ip_address(number + 1))), 0)
    assert names(table, WGET) == ["a.example"]
    assert addresses(table, CURL, 99) == list(range(87, 99))


def test_long_names_give_way_sooner() -> None:
    table = Table(room=1000)
    for number in range(20):
        owner, alias = f"n{number:02}." + "a" * 96, "b" * 100
        table.learn(CURL, answer(owner, (owner, alias), (alias, ip_address(number + 1))), 0)
        assert table.size <= 1000
    assert addresses(table, CURL, 20) == [17, 18, 19]
    table.expire(LONGEST)
    assert (len(table), table.size) == (0, 0)
    table.learn(CURL, answer("c" * 2000, ("c" * 2000, ONE)), 0)
    assert (len(table), table.size) == (0, 0)


def test_a_message_teaches_so_many_addresses() -> None:
    table = Table()
    hints = tuple(ip_address(number + 1) for number in range(ANSWERS + 1))
    assert len(table.learn(CURL, answer("a.example", ("a.example", Service(1, "", hints))), 0)) == ANSWERS


def test_the_name_that_ends_first_gives_way() -> None:
    table = Table()
    table.learn(CURL, answer("short.example", ("short.example", ONE, 61)), 0)
    for number in range(NAMES):
        table.learn(CURL, answer(f"n{number}", (f"n{number}", ONE, 600)), 0)
    assert names(table, CURL) == [f"n{number}" for number in reversed(range(NAMES))]
    assert table.gave_way == 1


def test_an_asker_is_forgotten() -> None:
    table = Table()
    for asker in (CURL, WGET):
        table.learn(asker, answer("a.example", ("a.example", ONE)), 0)
    table.forget(CURL)
    assert (names(table, CURL), names(table, WGET)) == ([], ["a.example"])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["learn", "opened", "closed", "expire", "find"]),
        st.sampled_from([Asker(1), CURL, WGET, Asker(2, "/usr/bin/curl")]),
        st.integers(0, 5),
        st.integers(0, 400),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=100 * FUZZ)
def test_against_a_plain_list_of_answers(steps: list[tuple[str, Asker, int, int]]) -> None:
    """Without connections in between, a name is known exactly until its time; with them, at least so long."""
    table, now = Table(), 0
    taught: dict[tuple[Asker, Address, str], int] = {}
    for kind, asker, number, seconds in steps:
        now += seconds * SECOND // 4
        address, name = ip_address(f"192.0.2.{number % 2}"), f"n{number}"
        if kind == "learn":
            table.learn(asker, answer(name, (name, address, seconds)), now)
            until = now + max(seconds * SECOND, SHORTEST)
            taught[asker, address, name] = max(until, taught.get((asker, address, name), 0))
        elif kind == "expire":
            table.expire(now)
        elif kind != "find":
            getattr(table, kind)(asker, address, now)
        alive = {
            one
            for (who, where, one), until in taught.items()
            if (who, where) == (asker, address) and until > now
        }
        found = table.find(asker, address, now)
        mine = {known.name for known in found if known.own or asker.program == ""}
        assert alive <= {known.name for known in found}
        if not any(step[0] == "opened" for step in steps):
            assert mine == alive
    assert table.gave_way == 0
    kept = [names.size for learnt in table._askers.values() for names in learnt.addresses.values()]
    assert table.size == sum(kept)
