"""service/places.py: what entries of a database say, whatever they are, and that each is asked for once."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from mmdb import write_mmdb
from tidewaiter.service.places import Places


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


def test_files_in_the_format(tmp_path: Path) -> None:
    country = write_mmdb(
        tmp_path / "country.mmdb",
        {
            "192.0.2.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}},
            "198.51.100.0/25": {"country": {"iso_code": "KP"}},
        },
    )
    asn = write_mmdb(tmp_path / "asn.mmdb", {"192.0.2.0/24": {"autonomous_system_number": 64500}})
    places = Places(str(country), str(asn))
    found = [
        (places.country(one), places.continent(one), places.asn(one))
        for one in map(ip_address, ("192.0.2.7", "198.51.100.7", "198.51.100.200", "2001:db8::1"))
    ]
    assert found == [("DE", "EU", 64500), ("KP", "", 0), ("", "", 0), ("", "", 0)]
