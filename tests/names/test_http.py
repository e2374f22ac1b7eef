"""names/http.py: the host of real and of hostile requests, cut in every way."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hellos import cut
from strategies import FUZZ
from tidewaiter.model.name import NO_NAME, By, Hidden, Name
from tidewaiter.names.http import MAX_HEAD, PREFACE, NotHttp, RequestReader, begins_as_http

WEB = Name("example.com", By.HTTP)
GET = b"GET /path?q=http://other.example/ HTTP/1.1\r\nUser-Agent: x\r\nHost: Example.com:8080\r\nAccept: */*\r\n\r\n"


def read(*pieces: bytes) -> Name | None:
    """What a request in pieces calls its host; nothing before it is whole."""
    reader = RequestReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


@given(st.lists(st.integers(0, len(GET) - 1), max_size=8), st.binary(max_size=20))
def test_any_segments(places: list[int], body: bytes) -> None:
    pieces = cut(GET, places)
    assert read(*pieces[:-1], pieces[-1] + body) == WEB


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost:example.com\n\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nhOST: \t example.com. \r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\nHost: example.com\r\n\r\n",
        b"GET http://example.com/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        b"GET HTTPS://user:pw@example.com:8443?q HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
        b"M-SEARCH / HTTP/1.1\r\nX-Host: other.example\r\nHost: example.com\r\nHosts: a\r\n\r\n",
    ],
)
def test_forms_of_a_request(head: bytes) -> None:
    assert read(head) == WEB
    assert read(*cut(head, range(1, len(head)))) == WEB


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n",
    ],
)
def test_requests_that_name_nobody(head: bytes) -> None:
    assert read(head) == NO_NAME


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "two hosts"),
        (b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "field"),
        (b"GET / HTTP/1.1\r\nX: y\r\n Host: a.example\r\n\r\n", "field"),
        (b"GET / HTTP/1.1\r\nHost\r\n\r\n", "field"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "is none"),
        (b"GET / HTTP/1.1\r\nHost: a.example:80:80\r\n\r\n", "is none"),
        (b"GET / HTTP/1.1\r\nX: y\rHost: a.example\r\n\r\n", "must not be there"),
        (b"GET / HTTP/1.1\r\nX: \0\r\n\r\n", "must not be there"),
        (b"GET  / HTTP/1.1\r\n\r\n", "line"),
        (b"GET / HTTP/1.1 \r\n\r\n", "line"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD, "longer than"),
        (b"GET /" + b"y" * MAX_HEAD, "longer than"),
    ],
)
def test_what_another_server_may_read_otherwise_is_said_to_be_unreadable(head: bytes, why: str) -> None:
    name = read(head)
    assert name is not None
    assert (name.name, name.hidden) == ("", Hidden.UNREADABLE)
    assert why in name.why


def test_the_preface_of_http2() -> None:
    name = read(*cut(PREFACE + b"\0\0\0\4", [3, 10, 20]))
    assert name is not None
    assert name.hidden is Hidden.HTTP2
    assert read(b"PRI / HTTP/1.1\r\nHost: example.com\r\n\r\n") == WEB


@pytest.mark.parametrize(
    "stream",
    [
        b"\x16\x03\x01",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO mail.example\r\n",
        b" / HTTP/1.1",
        b"A" * 33,
        b"GET /\r\n",
        b"{json}",
    ],
)
def test_what_is_no_request(stream: bytes) -> None:
    with pytest.raises(NotHttp):
        read(stream)


def test_the_first_bytes_already_tell() -> None:
    assert all(
        begins_as_http(data) for data in (b"", b"G", b"GET", b"GET ", b"\r\nGET / ", b"BASELINE-CONTROL")
    )
    assert not any(begins_as_http(data) for data in (b"\x16", b" GET", b"GE\0", b"A" * 33))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = server.getsockname()[1]
        command = ["curl", "-s", "--max-time", "60", "--resolve", f"curl.example:{port}:127.0.0.1"]
        with subprocess.Popen([*command, f"http://curl.example:{port}/"]) as curl:
            try:
                client, _ = server.accept()
                with client:
                    client.settimeout(60)
                    reader, name = RequestReader(), None
                    while name is None and (data := client.recv(10)):
                        name = reader.feed(data)
            finally:
                curl.kill()
    assert name == Name("curl.example", By.HTTP)


TEXT = st.text("abcHost: \t\r\n./:[]@0HTP1", max_size=40).map(str.encode)


@given(
    st.lists(TEXT | st.sampled_from([b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\n\n"]), max_size=6),
    st.integers(1, 30),
)
@settings(max_examples=200 * FUZZ)
def test_hostile_streams_are_read_or_refused(parts: list[bytes], step: int) -> None:
    stream = b"".join(parts)
    reader = RequestReader()
    with contextlib.suppress(NotHttp):
        for at in range(0, len(stream), step):
            name = reader.feed(stream[at : at + step])
            if name is not None:
                assert name == RequestReader().feed(stream[: at + step])
                break
