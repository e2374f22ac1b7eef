"""The lab's web server for one connection: small, real HTTP/1.1 (RFC 9112) with kept connections.

``GET /`` says who the server sees, ``GET /bytes/N`` sends N zero bytes, ``POST /upload`` counts what it gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

_CHUNK = 1 << 18  # bytes written or read at once
_ZEROS = memoryview(bytes(_CHUNK))
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
}


@dataclass(frozen=True, slots=True)
class Request:
    """The head of one request; ``headers`` has its names in lower case."""

    method: str
    path: str
    version: str
    headers: Mapping[str, str]

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open after the answer (RFC 9112 §9.3)."""
        return self.version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"


def parse(head: bytes) -> Request:
    """Read a request head, up to and including its empty line. Raises ValueError when it is none."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ValueError(f"not a request line: {first!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"not a header: {line!r}")
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1], words[2], headers)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests on one connection until either side ends it."""
    keeps = True
    while keeps:
        head = await reader.readuntil(b"\r\n\r\n")
        try:
            request = parse(head)
        except ValueError as error:
            return await _send(writer, 400, f"{error}\n".encode(), keeps=False)
        status, body = await _answer(request, reader, writer)
        keeps = request.keeps and status < 400
        await _send(writer, status, body, keeps=keeps, head_only=request.method == "HEAD")
    return None


async def _answer(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bytes | int]:
    """The status and the body of the answer: bytes, or a number of zero bytes."""
    path = "/" + request.path.lstrip("/")  # "$LAB_HTTP/bytes/1" has two
    if path == "/upload":
        if request.method != "POST":
            return 405, b"only POST is served here\n"
        return await _receive(request, reader, writer)
    if request.method not in {"GET", "HEAD"}:
        return 405, b"only GET is served here\n"
    if path == "/":
        address, port, *_ = writer.get_extra_info("peername")
        return 200, f"the lab sees {address} port {port}\n".encode()
    folder, _, size = path.rpartition("/")
    if folder == "/bytes" and size.isdecimal() and len(size) <= 18:
        return 200, int(size)
    return 404, b"there are only /, /bytes/N and /upload\n"


async def _receive(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bytes]:
    size = request.headers.get("content-length", "")
    if not size.isdecimal() or len(size) > 18:
        return 411, b"an upload needs a Content-Length\n"
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    left = int(size)
    while left:
        left -= len(await reader.readexactly(min(left, _CHUNK)))
    return 200, f"{size} bytes\n".encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes | int, *, keeps: bool, head_only: bool = False
) -> None:
    size = body if isinstance(body, int) else len(body)
    connection = "keep-alive" if keeps else "close"
    writer.write(
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {size}\r\nConnection: {connection}\r\n\r\n".encode()
    )
    if isinstance(body, int) and not head_only:
        while body > 0:
            writer.write(_ZEROS[:body])
            body -= _CHUNK
            await writer.drain()
    elif isinstance(body, bytes) and not head_only:
        writer.write(body)
    await writer.drain()
