"""The table of dimensions. (What each of them matches: test_index.py.)"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tidewaiter.lists import FORMATS, Reader, Union
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.dimensions import DIMENSIONS, is_pending, may_be
from tidewaiter.policy.rule import World

ROOT = Path(__file__).parents[2]


def found(name: str, /, **connection: object) -> object:
    """What a dimension finds, as people read it."""
    dimension = DIMENSIONS[name]
    value = dimension.getter(World())(facts_of({"remote": "192.0.2.1:443"} | connection))
    return [dimension.text(one) for one in value] if dimension.many else dimension.text(value)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_the_reference_describes_each(name: str) -> None:
    page = (ROOT / "docs/reference/policy.md").read_text()
    assert f"| `{name}` | {DIMENSIONS[name].says} |" in page


def test_facts_as_people_read_them() -> None:
    assert found("remote", remote="[2001:db8::1]:5") == "2001:db8::1"
    assert found("port", protocol="udp") == "443/udp"
    assert found("port", local="10.0.0.1:80", direction="in") == "80/tcp"
    assert found("protocol", remote="::1") == "tcp6"
    assert found("direction", direction="forward") == "forward"
    assert found("host", name="a.b", aliases=["c.d"]) == ["a.b", "c.d"]
    assert found("network") == ["elsewhere"]
    noon = time.mktime((2026, 1, 5, 12, 34, 56, 0, 0, -1))
    assert (found("time", time=noon), found("weekday", time=noon)) == ("12:34", "mon")


def test_what_is_pending() -> None:
    assert is_pending("sha256", frozenset({"sha256"}))
    assert all(is_pending(name, frozenset({"host"})) for name in ("host", "asked_host", "list"))
    assert not is_pending("program", frozenset({"host"}))


def test_an_address_in_a_list_needs_no_name() -> None:
    def listed(text: bytes) -> Union:
        reader = Reader("list", FORMATS["domains"])
        reader.feed(text)
        return Union([reader.finish()])

    world = World(
        {"names": listed(b"a.example"), "nets": listed(b"192.0.2.0/24"), "both": listed(b"b.c\n10.0.0.1")}
    )

    def lists(remote: str, *pending: str) -> tuple[object, ...]:
        return may_be(
            DIMENSIONS["list"],
            facts_of({"remote": remote, "name": "a.example", "pending": [*pending]}),
            world,
        )

    assert lists("192.0.2.1") == (("names", "nets"),)
    assert lists("192.0.2.1", "host") == (("nets",), ("names", "nets", "both"))
    assert lists("10.0.0.1", "host") == (("both",), ("names", "both"))
    assert lists("10.0.0.1", "list", "host") == ()
    only = World({"nets": listed(b"192.0.2.0/24")})
    facts = facts_of({"remote": "10.0.0.1", "pending": ["host"]})
    assert may_be(DIMENSIONS["list"], facts, only) == ((),)
    assert may_be(DIMENSIONS["host"], facts, only) == ()
    assert may_be(DIMENSIONS["program"], facts, only) == ("",)
