"""Lists together: what is in any of them."""

from __future__ import annotations

from ipaddress import ip_address

from tidewaiter.lists import FORMATS, CompiledList, Reader, Union


def read(text: bytes, form: str) -> CompiledList:
    reader = Reader("list", FORMATS[form])
    reader.feed(text)
    return reader.finish()


def test_what_is_in_any_list_is_in_all_of_them_together() -> None:
    both = Union(
        [
            read(b"a.example\n192.0.2.1\n", "domains"),
            read(b"2001:db8::/32\n192.0.2.0/28\n", "networks"),
            read(b"b.example\n", "zones"),
        ]
    )
    names = ("a.example", "A.example.", "b.example", "x.b.example", "x.a.example", "example", "")
    assert [both.contains_name(name) for name in names] == [True, True, True, True, False, False, False]
    addresses = ("192.0.2.1", "192.0.2.2", "2001:db8::7", "192.0.2.16", "::1")
    assert [both.contains_address(ip_address(one)) for one in addresses] == [True, True, True, False, False]
    assert both.sizes == (2, 3)
    asked = (
        ("192.0.2.16", ()),
        ("192.0.2.2", ()),
        ("::1", ("c.example", "x.b.example")),
        ("::1", ("c.example",)),
    )
    assert [both.has(ip_address(one).packed, names) for one, names in asked] == [False, True, True, False]


def test_an_exception_takes_nothing_from_another_list() -> None:
    exempt = read(b"||a.example^\n@@||www.a.example^\n", "adblock")
    assert not Union([exempt]).contains_name("www.a.example")
    assert Union([exempt, read(b"www.a.example\n", "domains")]).contains_name("www.a.example")


def test_no_list_has_nothing() -> None:
    assert not Union().contains_name("a.example")
    assert not Union([read(b"", "hosts")]).contains_address(ip_address("192.0.2.1"))
    assert Union().sizes == (0, 0)
