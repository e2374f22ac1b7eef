"""lab/servers.py, each server alone on the loopback; all of them together are tested with the world."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import dns.message
import pytest

from tidewaiter.lab import dns as lab_dns
from tidewaiter.lab import plan, servers

LOOPBACK = "127.0.0.1"


def test_echo_returns_more_than_the_buffers_hold() -> None:
    data = bytes(range(256)) * 40_000

    async def run() -> bytes:
        server = await asyncio.get_running_loop().create_server(servers.TcpEcho, LOOPBACK, 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(data)  # all of it before the first byte is read: the server has to pause
            sending = asyncio.ensure_future(writer.drain())
            echoed = await reader.readexactly(len(data))
            await sending
            writer.close()
            await writer.wait_closed()
        return echoed

    assert asyncio.run(run()) == data


def test_dns_over_tcp_answers_one_request_after_another() -> None:
    queries = [dns.message.make_query(name, "A").to_wire() for name in ("web.lab", "nowhere.lab")]

    async def run() -> list[bytes]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with pytest.raises(EOFError):
                await servers.serve_dns(reader, writer)
            writer.close()

        async with await asyncio.start_server(serve, LOOPBACK, 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"".join(len(query).to_bytes(2, "big") + query for query in queries))
            writer.write_eof()
            answers = [
                await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in queries
            ]
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        return answers

    assert asyncio.run(run()) == [lab_dns.answer(query) for query in queries]


def test_datagrams_are_answered_until_none_waits() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.setblocking(False)
        server.bind((LOOPBACK, 0))
        client.connect(server.getsockname())
        client.settimeout(5)
        for datagram in (b"one", b"", b"refused", b"x" * 60_000):
            client.send(datagram)
        servers.serve_datagrams(
            server, memoryview(bytearray(1 << 16)), lambda data: None if bytes(data) == b"refused" else data
        )
        assert [client.recv(1 << 16) for _ in range(3)] == [b"one", b"", b"x" * 60_000]


def test_the_certificate_satisfies_a_strict_client(tmp_path: Path) -> None:
    server_context = servers.make_certificate(tmp_path)
    client_context = ssl.create_default_context(cafile=str(tmp_path / plan.CERTIFICATE))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("tls.lab", plan.TLS.v4, plan.TLS.v6):
        shake_hands(server_context, client_context, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_context, client_context, "elsewhere.lab")


def shake_hands(server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str) -> None:
    """Let a client and a server meet in memory; raises what the client finds wrong."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    open_ends = [client, server]
    while open_ends:
        end = open_ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            open_ends.append(end)


def test_the_private_key_is_for_its_owner_only(tmp_path: Path) -> None:
    servers.make_certificate(tmp_path)
    (key,) = set(tmp_path.iterdir()) - {tmp_path / plan.CERTIFICATE}
    assert key.stat().st_mode & 0o077 == 0
