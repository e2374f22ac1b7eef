"""names/quic.py: real clients' first datagrams, in any order, and what else a datagram may be."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.crypto import CryptoPair
from hypothesis import given, settings
from hypothesis import strategies as st

from hellos import MANY, V1, V2, alpn, handshake, of_aioquic, server_name
from strategies import FUZZ
from tidewaiter.names.pieces import GAPS, LIMIT
from tidewaiter.names.quic import (
    KEYS,
    PACKETS,
    VERSIONS,
    InitialReader,
    NotQuic,
    UnreadableInitial,
    begins_as_quic,
)
from tidewaiter.names.tls import Hello

HELLO = handshake([server_name(b"example.com"), alpn(b"h3")])
READ = Hello("example.com", ("h3",))


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + encode_uint_var(offset) + encode_uint_var(len(data)) + data


def initial(
    frames: bytes,
    number: int = 0,
    *,
    version: int = V1,
    connection_id: bytes = b"12345678",
    header_id: bytes | None = None,
    token: bytes = b"",
    kind: int | None = None,
    size: int = 1162,
) -> bytes:
    """An Initial packet, encrypted by aioquic, filled up with padding."""
    frames = frames.ljust(size, b"\0")
    kind = VERSIONS[version].initial if kind is None else kind
    shown = connection_id if header_id is None else header_id
    header = bytes([0xC3 | kind << 4]) + version.to_bytes(4, "big") + bytes([len(shown)]) + shown + b"\0"
    header += encode_uint_var(len(token)) + token + encode_uint_var(len(frames) + 4 + 16)
    pair = CryptoPair()
    pair.setup_initial(cid=connection_id, is_client=True, version=version)
    return bytes(pair.encrypt_packet(header + number.to_bytes(4, "big"), frames, number))


def read(*datagrams: bytes) -> Hello | None:
    """The ClientHello of a connection; nothing before its last datagram."""
    reader = InitialReader()
    for datagram in datagrams[:-1]:
        assert reader.feed(datagram) is None
    return reader.feed(datagrams[-1])


@pytest.mark.parametrize("version", [V1, V2])
def test_a_real_client(version: int) -> None:
    datagrams = of_aioquic("www.example.com", ["h3", "hq-interop"], version=version)
    assert read(datagrams[0]) == Hello("www.example.com", ("h3", "hq-interop"))


@pytest.mark.parametrize("version", [V1, V2])
def test_a_real_client_whose_hello_takes_several_packets(version: int) -> None:
    datagrams = of_aioquic("www.example.com", MANY, version=version)
    assert len(datagrams) > 2
    for order in (datagrams, datagrams[::-1], [datagrams[0], *datagrams]):
        hello = read(*order)
        assert hello is not None
        assert (hello.name, hello.protocols[0]) == ("www.example.com", MANY[0])


def test_a_client_with_a_token_and_one_without_a_name() -> None:
    assert read(of_aioquic("a.example", token=b"t" * 100)[0]) == Hello("a.example", ("h3",))
    assert read(of_aioquic(None)[0]) == Hello("", ("h3",))


def test_frames_in_any_order_among_others() -> None:
    cuts = [*range(0, len(HELLO), 7)]
    parts = [crypto(at, HELLO[at : at + 7]) for at in cuts]
    random.Random(1).shuffle(parts)
    noise = [
        b"\x01",
        b"\0\0\0",
        b"\x02\x05\x00\x01\x00\x01\x02",
        b"\x03\x05\x00\x00\x00\x01\x02\x03",
        b"\x1c\0\x06\x03bye",
    ]
    frames = b"".join(part + noise[number % len(noise)] for number, part in enumerate(parts))
    assert read(initial(frames)) == READ
    middle = len(parts) // 2
    assert read(initial(b"".join(parts[:middle])), initial(b"".join(parts[middle:]), 1)) == READ


def test_two_packets_in_one_datagram_and_others_behind() -> None:
    both = initial(crypto(50, HELLO[50:]), size=200) + initial(crypto(0, HELLO[:50]), 1, size=1000)
    zero_rtt = initial(b"", 2, kind=0b01, size=300)
    for datagram in (both, both + b"\x40rest", both + zero_rtt, both + b"\xc0\0\0\0\x01\xff"):
        assert read(datagram) == READ


def test_after_a_retry_the_keys_are_new() -> None:
    first = initial(crypto(0, HELLO[:30]))
    again = initial(crypto(0, HELLO), 1, connection_id=b"of the server", token=b"retry")
    assert read(first, again) == READ


def test_the_server_changes_the_id_but_not_the_keys() -> None:
    assert (
        read(initial(crypto(0, HELLO[:30])), initial(crypto(30, HELLO[30:]), 1, header_id=b"server")) == READ
    )


def test_a_change_to_version_2() -> None:
    second = initial(crypto(30, HELLO[30:]), 1, version=V2, header_id=b"server")
    assert read(initial(crypto(0, HELLO[:30])), second) == READ


def test_what_cannot_be_decrypted_is_ignored() -> None:
    strange = [initial(b"", connection_id=b"other", header_id=bytes([number] * 8)) for number in range(2)]
    assert read(initial(b"\x01"), *strange, initial(crypto(0, HELLO), 1)) == READ


def test_no_more_keys_and_packets_than_that() -> None:
    reader = InitialReader()
    for number in range(PACKETS):
        assert reader.feed(initial(b"", connection_id=b"other", header_id=number.to_bytes(8, "big"))) is None
        assert len(reader._keys) <= KEYS
    with pytest.raises(UnreadableInitial, match=f"{PACKETS} packets"):
        reader.feed(initial(crypto(0, HELLO)))


@pytest.mark.parametrize(
    ("datagram", "said"),
    [
        (b"\xc0\xff\0\0\x1d".ljust(1200, b"\0"), "unknown version 0xff00001d"),
        (initial(b"\x08stream"), "frame of type 0x8"),
        (initial(b"\x06\x00\x44\x00abc", size=20) + bytes(1200), "is malformed"),
        (initial(b"\x02\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"), "is malformed"),
        (initial(crypto(0, b"\x02" + HELLO[1:])), "message of type 2"),
        (initial(crypto(0, HELLO[:-9] + b"\xff" * 9)), "ends too soon"),
        (initial(crypto(0, HELLO) + crypto(5, b"xxx")), "different bytes"),
        (initial(b"".join(crypto(2 * number, b"x") for number in range(GAPS + 1))), "stretches"),
        (initial(crypto(0, b"\x01\xff\xff\xff")), "too large"),
    ],
)
def test_what_cannot_be_read_is_said(datagram: bytes, said: str) -> None:
    with pytest.raises(UnreadableInitial, match=said):
        read(datagram)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xc0\0\0\0\x01",
        bytes(1200),
        b"\x40" * 1200,
        b"\xc0\0\0\0\0".ljust(1200, b"x"),  # version negotiation
        b"\xc0\0\0\0\x01\xff".ljust(1200, b"x"),
        b"\xc0\0\0\0\x01".ljust(1200, b"\0"),  # an Initial of no length
        initial(b"", kind=0b10),  # a handshake packet
        initial(crypto(0, HELLO))[:1199],
    ],
)
def test_what_is_no_beginning_of_quic(datagram: bytes) -> None:
    with pytest.raises(NotQuic):
        read(datagram)


def test_a_beginning_is_told_by_its_size() -> None:
    assert begins_as_quic(initial(b""))
    assert not begins_as_quic(initial(b"")[:1199])


def test_what_is_kept_is_bounded() -> None:
    reader = InitialReader()
    with pytest.raises(UnreadableInitial):
        for number in range(PACKETS + 1):
            reader.feed(initial(crypto(1 + 1000 * number, b"x" * 1000), number))
    assert len(reader._crypto._data) <= LIMIT


def test_the_cryptography_is_loaded_with_the_first_packet_and_not_before() -> None:
    program = """
import sys
from tidewaiter.names.first import First
def loaded(): return any(name.partition(".")[0] == "cryptography" for name in sys.modules)
before = loaded()
First(17).feed(b"\\xc0\\0\\0\\0\\1\\x08" + bytes(1200), 1)
print(before, loaded())
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["False", "False"]
    real = program.replace('b"\\xc0\\0\\0\\0\\1\\x08" + bytes(1200)', repr(initial(b"")))
    made = subprocess.run([sys.executable, "-c", real], capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["False", "True"]


@given(st.data())
@settings(max_examples=100 * FUZZ, deadline=None)
def test_hostile_datagrams_are_read_or_refused(data: st.DataObject) -> None:
    reader = InitialReader()
    frames = st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.tuples(st.integers(0, 200), st.binary(max_size=20)).map(lambda piece: crypto(*piece)),
            max_size=20,
        ).map(b"".join),
    )
    for number in range(data.draw(st.integers(1, 4))):
        datagram = bytearray(initial(data.draw(frames), number))
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 4))):
                datagram[data.draw(st.integers(0, 40))] = data.draw(st.integers(0, 255))
        datagram += data.draw(st.binary(max_size=40))
        try:
            if reader.feed(bytes(datagram)) is not None:
                break
        except (NotQuic, UnreadableInitial) as error:
            assert "\n" not in str(error)
            break
