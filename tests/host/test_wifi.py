"""host/wifi.py: what nl80211 says, made by hand from its header: no machine of tests has such a device."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host import rtnetlink, wifi
from tidewaiter.host.rtnetlink import MalformedMessage, attribute

GENERAL = struct.pack("=BBxx", 7, 1)


def test_the_requests() -> None:
    (message,) = rtnetlink.messages(wifi.find_family(3))
    assert (message.kind, message.flags, message.sequence) == (16, 5, 3)
    assert message.body == b"\x03\x01\0\0" + struct.pack("=HH", 12, 2) + b"nl80211\0"
    (message,) = rtnetlink.messages(wifi.list_of_interfaces(28, 4))
    assert (message.kind, message.flags, message.body) == (28, 0x301, b"\x05\0\0\0")


def test_the_number_of_the_family() -> None:
    body = GENERAL + attribute(2, b"nl80211\0") + attribute(1, struct.pack("=H", 28)) + attribute(6, b"rest")
    assert wifi.family(body) == 28
    assert wifi.family(GENERAL) == 0


@pytest.mark.parametrize(
    ("name", "said"), [(b"Home", "Home"), ("Café".encode(), "Café"), (b"\xff", "\ufffd"), (None, "")]
)
def test_the_name_of_the_network(name: bytes | None, said: str) -> None:
    others = (
        attribute(3, struct.pack("=I", 3)) + attribute(4, b"wlan0\0") + attribute(5, struct.pack("=I", 2))
    )
    assert wifi.network(GENERAL + others + (attribute(52, name) if name is not None else b"")) == said


def test_too_little() -> None:
    with pytest.raises(MalformedMessage, match="3 bytes are too few for generic netlink"):
        wifi.network(b"\0\0\0")


@given(st.binary(max_size=80))
def test_anything_may_come(data: bytes) -> None:
    for read in (wifi.family, wifi.network):
        with contextlib.suppress(MalformedMessage):
            read(data)
