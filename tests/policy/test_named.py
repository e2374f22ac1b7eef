"""What the values of a dimension turn: rules that want them, rules that refuse them, and what covers them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy.named import (
    Named,
    Prefixes,
    address_number,
    address_width,
    network_prefix,
    prefix_network,
)

WIDTH = 5
Sides = tuple[set[int], set[int]]


def prefix(number: int, length: int) -> int:
    return number >> WIDTH - length << WIDTH - length + 8 | length


PREFIXES = st.builds(prefix, st.integers(0, 2**WIDTH - 1), st.integers(0, WIDTH))
SIDES = st.tuples(st.sets(PREFIXES, max_size=3), st.sets(PREFIXES, max_size=3))


def covers(one: int, number: int) -> bool:
    return prefix(number, one & 255) == one


def satisfied(sides: Sides, number: int) -> bool:
    wanted, refused = sides
    return (not wanted or any(covers(one, number) for one in wanted)) and not any(
        covers(one, number) for one in refused
    )


def test_a_value_turns_who_wants_it_and_who_refuses_it() -> None:
    named = Named()
    named.add(0, ["a", "b"], [])
    named.add(1, [], ["b"])
    named.add(2, ["a", "b"], ["b"])
    named.entered(3)
    assert dict(named.turned("abc")) == {"a": 0b101, "b": 0b011, "c": None}
    assert (named.wanting, named.refusing, named.looking, len(named)) == (0b101, 0b110, 0b111, 2)
    assert named.changed() == {"a", "b"}
    assert named.changed() == set()
    named.remove(2, ["a", "b"], ["b"])
    named.remove(0, ["a", "b"], [])
    assert named.changed() == {"a", "b"}
    assert (named.keys(), named.turned_by("b"), named.looking) == ({"b"}, 0b010, 0b010)


@given(st.lists(SIDES, max_size=12), st.lists(st.integers(0, 11), max_size=4))
def test_prefixes_agree_with_a_plain_look_at_each_rule(rules: list[Sides], leaving: list[int]) -> None:
    named = Prefixes(lambda _: WIDTH)
    for bit, sides in enumerate(rules):
        named.add(bit, *sides)
    named.entered(len(rules))
    named.settle()
    before = dict(named.turned(named.keys()))
    there = dict(enumerate(rules))
    for bit in leaving:
        if bit in there:
            named.remove(bit, *there.pop(bit))
    after, changed = dict(named.turned(named.keys())), named.changed()
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} <= changed
    assert dict(named.turned(changed)) == {key: after.get(key) for key in changed}
    every = sum(1 << bit for bit in there)
    for number in range(2**WIDTH):
        longest = [key for key in after if covers(key, number)]
        turned = after[max(longest, key=lambda key: key & 255)] if longest else 0
        assert named.turned_by(number) == turned
        found = every & ~named.wanting ^ turned
        assert found == sum(1 << bit for bit, sides in there.items() if satisfied(sides, number))


def test_what_cancels_out_still_stands_before_what_covers_it() -> None:
    named = Prefixes(lambda _: WIDTH)
    named.add(0, [prefix(0, 1)], [prefix(0, 3)])
    named.entered(1)
    assert dict(named.turned([prefix(0, 1), prefix(0, 3), prefix(0, 5)])) == {
        prefix(0, 1): 1,
        prefix(0, 3): 0,
        prefix(0, 5): None,
    }


def test_what_many_name_is_the_same_as_what_few_name() -> None:
    named = Prefixes(lambda _: WIDTH)
    for bit in range(100):
        named.add(bit, [prefix(0, 1)], [prefix(8, 2)] if bit % 2 else [])
    named.entered(100)
    odd = sum(1 << bit for bit in range(1, 100, 2))
    assert named.turned_by(1) == (1 << 100) - 1
    assert named.turned_by(9) == (1 << 100) - 1 & ~odd


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "10.1.0.0/16", "255.255.255.255/32", "::/0", "fd00::/8", "::1/128"]
)
def test_networks_are_prefixes(text: str) -> None:
    network = ip_network(text)
    key = network_prefix(network)
    assert prefix_network(key) == (network.version, network.network_address.packed, network.prefixlen)
    assert address_width(key >> 8) == network.max_prefixlen


def test_the_two_versions_of_ip_do_not_cover_each_other() -> None:
    named = Prefixes(address_width)
    named.add(0, [network_prefix(ip_network("0.0.0.0/0"))], [])
    named.add(1, [network_prefix(ip_network("::/0"))], [])
    named.entered(2)
    assert named.turned_by(address_number(ip_address("192.0.2.1"))) == 0b01
    assert named.turned_by(address_number(ip_address("::1"))) == 0b10
