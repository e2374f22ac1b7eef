"""Lists and places from files; what cannot be read is said, and left empty."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy import Policy
from tidewaiter.policy.world import Places, PlainList, world_of


def test_the_forms_of_lines() -> None:
    found = PlainList(
        ["# x", "0.0.0.0 a.example b.example # c", "c.example", "*.d.example", "10.0.0.0/8", "2001:db8::1"]
    )
    assert [name for name in ("a.example", "b.example", "c.example", "x.c.example", "x.d.example") if
            found.contains_name(name)] == ["a.example", "b.example", "c.example", "x.d.example"]  # fmt: skip
    assert found.contains_address(ip_address("10.1.1.1"))
    assert found.contains_address(ip_address("2001:db8::1"))
    assert not found.contains_address(ip_address("11.1.1.1"))
    assert not found.contains_address(ip_address("::a00:1"))
    zones = PlainList(["example.org", "10.0.0.1"], "zones")
    assert zones.contains_name("a.example.org")
    assert not zones.contains_address(ip_address("10.0.0.1"))
    assert not PlainList(["127.0.0.1 localhost"], "hosts").contains_name("localhost")


@given(st.lists(st.text()))
def test_any_lines_are_read(lines: list[str]) -> None:
    found = PlainList(lines)
    found.contains_name("a.b")
    found.contains_address(ip_address("::1"))


def test_the_world_of_a_policy(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.txt").write_text("a.example\n")
    (tmp_path / "lists/b.txt").write_text("b.example\n")
    (tmp_path / "bad.mmdb").write_text("no database")
    path = tmp_path / "p.toml"
    path.write_text("""\
version = 1
[geography]
country = "bad.mmdb"
[list.ads]
path = ["lists/*.txt", "none.txt"]
[list.far]
url = "https://lists.example/x"
""")
    said: list[str] = []
    world = world_of(Policy.load(path), said.append)
    assert world.lists["ads"].contains_name("b.example")
    assert world.geography is None
    assert len(said) == 3
    assert any(f"goes without {tmp_path / 'none.txt'}: No such file" in one for one in said)
    assert any(one.startswith("where addresses are is not known") for one in said)


class Reader:
    def __init__(self, answer: object) -> None:
        self.answer, self.asked = answer, 0

    def get(self, _address: object) -> object:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize(
    ("country", "asn", "expected"),
    [
        (
            {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}},
            {"autonomous_system_number": 5},
            ("DE", "EU", 5),
        ),
        (None, None, ("", "", 0)),
        ({"country": "DE"}, {"autonomous_system_number": "5"}, ("", "", 0)),
    ],
)
def test_places(country: object, asn: object, expected: tuple[str, str, int]) -> None:
    places, address = Places(), ip_address("192.0.2.1")
    reader = Reader(country)
    places._country, places._asn = reader, Reader(asn)  # type: ignore[assignment]
    for _ in range(2):
        assert (places.country(address), places.continent(address), places.asn(address)) == expected
    assert reader.asked == 1
