"""The set of names: what is listed, by name, zone and exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listing import entries, names
from tidewaiter.lists import domains
from tidewaiter.lists.domains import DomainSet
from tidewaiter.lists.entry import BELOW, SELF, ZONE, NameEntry, Say, listed


def made(*many: NameEntry, nearest: bool = False) -> DomainSet:
    return domains.build(bytearray(b"".join(map(domains.record, many))), len(many), nearest)


def plainly(many: list[NameEntry], nearest: bool, name: str) -> bool:
    """Whether a name is listed, by walking over all entries."""
    said: dict[int, int] = {}  # by how many labels the zone has
    for entry in many:
        if entry.name == name:
            flags = entry.flags % BELOW
        elif name.endswith(f".{entry.name}"):
            flags = entry.flags // BELOW
        else:
            continue
        if flags:
            depth = entry.name.count(".")
            said[depth] = said.get(depth, 0) | flags
    if nearest:
        return bool(said) and listed(said[max(said)])
    together = 0
    for flags in said.values():
        together |= flags
    return listed(together)


@pytest.mark.parametrize(
    ("scope", "itself", "below"), [(SELF, True, False), (BELOW, False, True), (ZONE, True, True)]
)
def test_a_name_is_listed_alone_or_with_what_is_below(scope: int, itself: bool, below: bool) -> None:
    one = made(NameEntry("ads.example", Say.LISTED * scope))
    assert ("ads.example" in one) is itself
    assert ("a.b.ads.example" in one) is below
    assert not any(
        other in one for other in ("example", "notads.example", "ads.example.com", "", ".", "1.2.3.4")
    )


@pytest.mark.parametrize("asked", ["ADS.example", "ads.Example.", "bücher.example", "BÜCHER.EXAMPLE."])
def test_case_dot_and_letters_do_not_matter(asked: str) -> None:
    one = made(NameEntry("ads.example", Say.LISTED), NameEntry("xn--bcher-kva.example", Say.LISTED))
    assert asked in one


@pytest.mark.parametrize(
    "asked", ["\ud800.example", "a" * 254, "ü" * 300, "a b.example", "ads.example..", "ads..example"]
)
def test_what_is_no_name_is_not_listed(asked: str) -> None:
    assert asked not in made(NameEntry("ads.example", Say.LISTED * ZONE))


def test_an_exception_wins_over_all_zones_or_only_where_it_is_nearest() -> None:
    many = (NameEntry("example", Say.EXEMPT * ZONE), NameEntry("ads.example", Say.LISTED * ZONE))
    assert "ads.example" not in made(*many)
    assert "ads.example" in made(*many, nearest=True)
    assert "example" not in made(*many, nearest=True)


@given(st.lists(entries, max_size=20), st.booleans(), st.lists(names, max_size=20))
def test_the_set_says_what_a_walk_over_its_entries_says(
    many: list[NameEntry], nearest: bool, asked: list[str]
) -> None:
    one = made(*many, nearest=nearest)
    for name in [*asked, *(entry.name for entry in many)]:
        assert (name in one) is plainly(many, nearest, name)


@given(st.lists(entries, max_size=20))
def test_its_entries_can_be_read_again(many: list[NameEntry]) -> None:
    merged: dict[str, int] = {}
    for entry in many:
        merged[entry.name] = merged.get(entry.name, 0) | entry.flags
    one = made(*many)
    assert list(one) == [NameEntry(*pair) for pair in merged.items()]
    assert len(one) == len(merged)


def test_two_sets_of_the_same_names_have_keys_of_their_own() -> None:
    one, other = made(NameEntry("a.example", 1)), made(NameEntry("a.example", 1))
    assert one.image[-domains.TRAILER.size :] != other.image[-domains.TRAILER.size :]


@pytest.mark.parametrize("image", [b"", bytes(63), bytes(10) + made(NameEntry("a.example", 1)).image])
def test_other_bytes_are_no_set(image: bytes) -> None:
    with pytest.raises(ValueError, match="no set of names"):
        DomainSet(image)
