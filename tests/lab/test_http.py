"""lab/http.py: the parser alone, and the server with a real client on the loopback."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.lab import http as lab


def with_server(client: Callable[[int], None]) -> None:
    """Call ``client`` with the port of a server that serves while it runs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await lab.serve(reader, writer)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            await asyncio.to_thread(client, server.sockets[0].getsockname()[1])

    asyncio.run(run())


def raw(port: int, request: bytes) -> bytes:
    """Everything that the server sends for these bytes."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_parses_a_head() -> None:
    request = lab.parse(b"GET /x HTTP/1.1\r\nHost: web.lab\r\nAccept:*/*\r\n\r\n")
    assert (request.method, request.path, request.version) == ("GET", "/x", "HTTP/1.1")
    assert request.headers == {"host": "web.lab", "accept": "*/*"}
    assert request.keeps


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"],
)
def test_some_requests_end_the_connection(head: bytes) -> None:
    assert not lab.parse(head).keeps


@pytest.mark.parametrize("line", [b"", b"GET /", b"SSH-2.0-x", b"GET / HTTP/2.0", b"GET  / HTTP/1.1"])
def test_what_is_no_request_line(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a request line"):
        lab.parse(line + b"\r\n\r\n")


def test_what_is_no_header() -> None:
    with pytest.raises(ValueError, match="not a header: 'nonsense'"):
        lab.parse(b"GET / HTTP/1.1\r\nnonsense\r\n\r\n")


@given(st.binary(max_size=200))
def test_hostile_bytes_are_a_request_or_a_sentence(head: bytes) -> None:
    try:
        request = lab.parse(b"GET / HTTP/1.1\r\n" + head + b"\r\n\r\n")
    except ValueError as error:
        assert "not a header" in str(error)
    else:
        assert request.path == "/"


def test_one_connection_serves_many_requests() -> None:
    def client(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.connect()
        local = connection.sock.getsockname()[1]
        for path, size in (
            ("/bytes/0", 0),
            ("//bytes/1", 1),
            ("/bytes/70000", 70_000),
            ("/bytes/1000000", 1_000_000),
        ):
            connection.request("GET", path)
            assert connection.getresponse().read() == bytes(size)
        connection.request("GET", "/")
        assert connection.getresponse().read().decode() == f"the lab sees 127.0.0.1 port {local}\n"
        connection.request("POST", "/upload", body=b"x" * 600_000)
        assert connection.getresponse().read() == b"600000 bytes\n"
        connection.request("HEAD", "/bytes/5")
        response = connection.getresponse()
        assert (response.length, response.read()) == (0, b"")
        assert response.headers["Content-Length"] == "5"
        assert connection.sock.getsockname()[1] == local
        connection.close()

    with_server(client)


def test_an_upload_that_waits_to_be_asked() -> None:
    def client(port: int) -> None:
        head = b"POST /upload HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        answer = raw(port, head + b"abc")
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n3 bytes\n")

    with_server(client)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"nonsense", 400),
        (b"GET /nowhere HTTP/1.1", 404),
        (b"GET /bytes/many HTTP/1.1", 404),
        (b"GET /bytes/" + b"9" * 5000 + b" HTTP/1.1", 404),
        (b"PUT / HTTP/1.1", 405),
        (b"GET /upload HTTP/1.1", 405),
        (b"POST /upload HTTP/1.1", 411),
        (b"POST /upload HTTP/1.1\r\nContent-Length: -1", 411),
    ],
)
def test_errors_are_said_and_end_the_connection(request_line: bytes, status: int) -> None:
    def client(port: int) -> None:
        answer = raw(port, request_line + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"Connection: close\r\n" in answer
        assert b"the lab sees" not in answer

    with_server(client)
