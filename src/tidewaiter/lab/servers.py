"""The lab's servers, all in one process: ``python -m tidewaiter.lab.servers FOLDER``.

HTTP, HTTPS, DNS over UDP and TCP, TCP echo and UDP echo, on every server address of the plan. The certificate
is made in FOLDER (``ca.pem``). One line on standard output says that all of them listen; the process is
ended by a signal. Every server has a socket of its own for each address, so that an answer leaves from the
address that was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from tidewaiter.lab import dns, http, plan

_KEY = "key.pem"
_BACKLOG = 4096
_BATCH = 64  # datagrams answered before other servers get their turn

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
_Responder = Callable[[memoryview], bytes | memoryview | None]


class TcpEcho(asyncio.Protocol):
    """Sends back what it gets; stops reading while the peer does not take it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        self._transport.write(data)

    def pause_writing(self) -> None:
        """Too much waits for the peer."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._transport.resume_reading()


async def serve_dns(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer DNS requests over TCP, each behind its length in two bytes (RFC 1035 §4.2.2)."""
    while True:
        size = int.from_bytes(await reader.readexactly(2), "big")
        response = dns.answer(await reader.readexactly(size))
        if response is None:
            return
        writer.write(len(response).to_bytes(2, "big") + response)
        await writer.drain()


def serve_datagrams(server: socket.socket, buffer: memoryview, respond: _Responder) -> None:
    """Answer the datagrams that wait at a non-blocking socket, at most a batch of them."""
    with contextlib.suppress(OSError):  # nothing waits any more; or this one is lost, as datagrams may be
        for _ in range(_BATCH):
            size, peer = server.recvfrom_into(buffer)
            if (response := respond(buffer[:size])) is not None:
                server.sendto(response, peer)


def make_certificate(folder: Path) -> ssl.SSLContext:
    """Make a certificate for the lab's names and addresses, and a server context with it.

    Raises subprocess.CalledProcessError when the ``openssl`` command fails.
    """
    addresses = [address for place in plan.SERVERS for address in place]
    names = ",".join([*(f"DNS:{name}" for name in plan.NAMES), *(f"IP:{address}" for address in addresses)])
    certificate, key = folder / plan.CERTIFICATE, folder / _KEY
    # The key usage is what strict clients ask of an authority (Python 3.13 is one).
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
        " -subj /CN=tidewaiter-lab -addext keyUsage=critical,digitalSignature,keyCertSign"
    )
    arguments = ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *arguments], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def start(tls: ssl.SSLContext) -> list[asyncio.Server]:
    """Open every server of the plan in this network namespace. Raises OSError when an address is not here."""
    loop = asyncio.get_running_loop()
    servers = []
    for port, handler, context in (
        (plan.Port.HTTP, http.serve, None),
        (plan.Port.TLS, http.serve, tls),
        (plan.Port.DNS, serve_dns, None),
    ):
        for listener in _sockets(socket.SOCK_STREAM, port):
            server = await asyncio.start_server(_quiet(handler), sock=listener, ssl=context, backlog=_BACKLOG)
            servers.append(server)
    servers += [
        await loop.create_server(TcpEcho, sock=listener, backlog=_BACKLOG)
        for listener in _sockets(socket.SOCK_STREAM, plan.Port.ECHO)
    ]
    buffer = memoryview(bytearray(1 << 16))
    datagrams: dict[plan.Port, _Responder] = {
        plan.Port.DNS: lambda request: dns.answer(bytes(request)),
        plan.Port.ECHO: lambda datagram: datagram,
    }
    for port, respond in datagrams.items():
        for endpoint in _sockets(socket.SOCK_DGRAM, port):
            loop.add_reader(endpoint, serve_datagrams, endpoint, buffer, respond)
    return servers


def _sockets(kind: socket.SocketKind, port: plan.Port) -> Iterator[socket.socket]:
    for place in plan.SERVERS:
        for family, address in ((socket.AF_INET, place.v4), (socket.AF_INET6, place.v6)):
            server = socket.socket(family, kind)
            server.setblocking(False)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            yield server


def _quiet(handler: _Handler) -> _Handler:
    """Close the connection when the handler ends, and let a peer that goes away be no event."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    return handle


async def _main(folder: Path) -> None:
    tls = await asyncio.to_thread(make_certificate, folder)
    servers = await start(tls)
    print(plan.READY, flush=True)
    os.close(sys.stdout.fileno())
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
