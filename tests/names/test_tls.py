"""names/tls.py: ClientHellos of real clients, cut in every way, and what only looks like one."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hellos import MANY, alpn, cut, handshake, of_ssl, records, server_name, vector
from strategies import FUZZ
from tidewaiter.model.name import By, Hidden, Name
from tidewaiter.names.tls import (
    MAX_HELLO,
    MAX_RECORD,
    Hello,
    HelloReader,
    MalformedHello,
    NotTls,
    begins_as_tls,
    hello_of_handshake,
)

RECORDED = Path(__file__).parent / "recorded"
HELLO = handshake([server_name(b"Example.com"), alpn(b"h2", b"http/1.1"), (51, bytes(60))])
READ = Hello("example.com", ("h2", "http/1.1"))
ECH = (0xFE0D, b"\0" + bytes(150))


def read(*pieces: bytes) -> Hello | None:
    """The ClientHello of a stream in pieces; nothing before it is whole."""
    reader = HelloReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_python(version: ssl.TLSVersion) -> None:
    assert read(of_ssl("www.example.com", version=version)) == Hello("www.example.com")
    assert read(of_ssl("a.example", ["h2"], version=version)) == Hello("a.example", ("h2",))


def test_a_real_hello_over_three_segments() -> None:
    stream = of_ssl("www.example.com", MANY)
    assert len(stream) > 2 * 1460
    hello = read(*cut(stream, [1460, 2920]))
    assert hello is not None
    assert (hello.name, hello.protocols) == ("www.example.com", tuple(MANY[:16]))


@pytest.mark.parametrize(("file", "ech"), [("openssl4-mlkem", False), ("openssl4-mlkem-ech-grease", True)])
def test_a_recorded_hello_with_a_key_share_against_quantum_computers(file: str, ech: bool) -> None:
    stream = (RECORDED / f"{file}.bin").read_bytes()
    assert len(stream) > 1460
    assert read(*cut(stream, [1460])) == Hello("pq.example", ("h2", "http/1.1"), ech)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = server.getsockname()[1]
        command = ["curl", "-sk", "--max-time", "60", "--resolve", f"curl.example:{port}:127.0.0.1"]
        with subprocess.Popen([*command, f"https://curl.example:{port}/"]) as curl:
            try:
                client, _ = server.accept()
                with client:
                    client.settimeout(60)
                    reader, hello = HelloReader(), None
                    while hello is None and (data := client.recv(100)):
                        hello = reader.feed(data)
            finally:
                curl.kill()
    assert hello is not None
    assert (hello.name, hello.ech) == ("curl.example", False)
    assert "http/1.1" in hello.protocols


@given(
    st.lists(st.integers(1, 60), max_size=12),
    st.lists(st.integers(0, 400), max_size=8),
    st.binary(max_size=9),
)
@settings(max_examples=100 * FUZZ)
def test_any_records_and_any_segments(sizes: list[int], places: list[int], behind: bytes) -> None:
    stream = records(HELLO, sizes)
    pieces = cut(stream, [place % len(stream) for place in places])
    assert read(*pieces[:-1], pieces[-1] + behind) == READ


def test_one_byte_a_record_and_a_segment() -> None:
    stream = records(HELLO, [1] * len(HELLO))
    assert read(*cut(stream, range(1, len(stream)))) == READ


def test_early_data_behind_it_is_not_looked_at() -> None:
    assert read(records(HELLO) + b"\x14\x03\x03\0\1\1" + b"\x17\x03\x03\0\5early") == READ


@pytest.mark.parametrize(
    ("extensions", "hello"),
    [
        (None, Hello("")),
        ([], Hello("")),
        ([(0x0A0A, b""), ECH, server_name(b"front.example")], Hello("front.example", (), True)),
        ([ECH], Hello("", (), True)),
        ([server_name()], Hello("")),
        ([server_name(b"x", kind=7)], Hello("")),
        ([server_name(b"192.0.2.1")], Hello("")),
        ([server_name(b"2001:db8::1")], Hello("")),
        ([server_name(b"example.com.")], Hello("example.com")),
        ([alpn(b"\xff\n")], Hello("", ("\\xff\n",))),
    ],
)
def test_what_a_hello_may_say(extensions: list[tuple[int, bytes]] | None, hello: Hello) -> None:
    assert read(records(handshake(extensions))) == hello
    assert hello_of_handshake(handshake(extensions)) == hello


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (records(handshake([server_name(b"a"), server_name(b"b")])), "is there twice"),
        (records(handshake([server_name(b"a", b"b")])), "names two hosts"),
        (records(handshake([server_name(b"a b")])), "is none"),
        (records(handshake([server_name(b"")])), "is none"),
        (records(handshake([(0, b"\0\xff\0")])), "ends too soon"),
        (records(handshake([(16, b"\0\2\5h")])), "ends too soon"),
        (records(b"\x01" + vector(3, b"\x03\x03" + bytes(10))), "ends too soon"),
        (records(b"\x01" + vector(3, HELLO[4:] + b"more")), "4 bytes follow"),
        (records(b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big")), "too large"),
        (records(HELLO[:40]) + b"\x17\x03\x03\0\5early", "none of a handshake"),
        (records(HELLO[:40]) + b"\x16\x03\x03\0\0", "0 bytes"),
    ],
)
def test_what_is_malformed(stream: bytes, said: str) -> None:
    with pytest.raises(MalformedHello, match=said):
        read(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x02",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01" + (MAX_RECORD + 1).to_bytes(2, "big"),
        b"\x17\x03\x03\0\5early",
        records(b"\x02" + HELLO[1:]),
    ],
)
def test_what_is_no_hello(stream: bytes) -> None:
    with pytest.raises(NotTls):
        read(stream)


def test_the_first_bytes_already_tell() -> None:
    assert all(begins_as_tls(data) for data in (b"", b"\x16", b"\x16\x03", b"\x16\x03\x01\0"))
    assert not any(begins_as_tls(data) for data in (b"\x17", b"\x16\x02", b"G"))


def test_the_name_of_a_connection() -> None:
    assert READ.named(By.TLS) == Name("example.com", By.TLS, protocols=("h2", "http/1.1"))
    assert Hello("").named(By.QUIC) == Name()
    front = Hello("front.example", (), True).named(By.QUIC)
    assert (front.name, front.by, front.hidden) == ("front.example", By.QUIC, Hidden.ECH)
    assert front.why


@given(st.data())
@settings(max_examples=200 * FUZZ)
def test_hostile_streams_are_read_or_refused(data: st.DataObject) -> None:
    stream = bytearray(records(HELLO, data.draw(st.lists(st.integers(1, 60), max_size=4))))
    for _ in range(data.draw(st.integers(0, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    feeds(bytes(stream) + data.draw(st.binary(max_size=20)), data.draw(st.integers(1, 400)))


@given(st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x03\0\x30\x01\0\0\x2c"]), st.binary(max_size=100))
@settings(max_examples=200 * FUZZ)
def test_any_bytes_are_read_or_refused(start: bytes, rest: bytes) -> None:
    feeds(start + rest, 7)


def feeds(stream: bytes, step: int) -> None:
    reader = HelloReader()
    with contextlib.suppress(NotTls, MalformedHello):
        for at in range(0, len(stream), step):
            reader.feed(stream[at : at + step])
    assert len(reader._handshake) <= len(stream)
