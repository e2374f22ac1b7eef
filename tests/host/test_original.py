"""host/original.py: the answers of connection tracking. Live ones are in tests/acceptance/test_redirects.py."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host import original
from tidewaiter.host.original import decode, original_destination
from tidewaiter.lab.world import World
from tidewaiter.model.key import Protocol

LOCAL = (ip_address("127.0.0.1"), 717)
CLIENT = (ip_address("192.0.2.1"), 4000)


def answer(body: bytes, kind: int = 0x100) -> bytes:
    body = bytes(4) + body
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def original_tuple(address: str, port: int, client: str = "192.0.2.1") -> bytes:
    tuple_ = original._tuple(Protocol.TCP, (ip_address(client), 4000), (ip_address(address), port))
    return original._nest(original._ORIGINAL, tuple_)


@pytest.mark.parametrize(("address", "client"), [("8.8.8.8", "192.0.2.1"), ("2001:db8::8", "2001:db8::1")])
def test_the_original_destination(address: str, client: str) -> None:
    assert decode(answer(original_tuple(address, 53, client)), LOCAL) == (address, 53)


def test_what_was_not_redirected_has_none() -> None:
    assert decode(answer(original_tuple("127.0.0.1", 717)), LOCAL) is None


def test_no_such_connection() -> None:
    nothing = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -errno.ENOENT) + bytes(16)
    assert decode(nothing, LOCAL) is None


def test_a_refusal() -> None:
    refused = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -errno.EPERM) + bytes(16)
    with pytest.raises(PermissionError):
        decode(refused, LOCAL)


@pytest.mark.parametrize("message", [b"", bytes(19), answer(b""), answer(original._nest(1, b"\0" * 8))])
def test_an_answer_that_does_not_hold_together(message: bytes) -> None:
    with pytest.raises(ValueError, match="the kernel's answer about a connection"):
        decode(message, LOCAL)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with suppress(OSError, ValueError):
        decode(data, LOCAL)
    with suppress(OSError, ValueError):
        decode(answer(data), LOCAL)


@pytest.mark.live
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_of_which_the_kernel_knows_nothing(world: World, address: str) -> None:
    def ask() -> tuple[str, int] | None:
        return original_destination(Protocol.TCP, (address, 717), (address, 4000))

    assert world.in_server(ask) is None


def test_addresses_that_are_none() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        original_destination(Protocol.TCP, ("nowhere", 717), ("127.0.0.1", 4000))
