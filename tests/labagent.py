"""A program for the lab that does with sockets what it is told, a JSON line each, many at once.

Answers are JSON lines too, with the ``id`` of their order; ``error`` is the name of the exception, or null.
It is run as a script in the lab's control group: what it opens is what a firewall there sees.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

_sockets: dict[int, socket.socket] = {}
_output = threading.Lock()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(order: dict[str, Any]) -> dict[str, Any]:
    """Connects; with ``say``, sends it and waits for the echo. ``device``, ``mark``: SO_BINDTODEVICE, SO_MARK."""
    return _connected(order, socket.SOCK_STREAM)


def udp(order: dict[str, Any]) -> dict[str, Any]:
    """A connected datagram socket; with ``say`` as `tcp`."""
    return _connected(order, socket.SOCK_DGRAM)


def _connected(order: dict[str, Any], kind: int) -> dict[str, Any]:
    made = socket.socket(_family(order["to"][0]), kind)
    made.settimeout(order.get("timeout", 5))
    if "device" in order:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, order["device"].encode())
    if "mark" in order:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, order["mark"])
    _sockets[order["id"]] = made
    made.connect(tuple(order["to"]))
    return say(order | {"of": order["id"]})


def sendto(order: dict[str, Any]) -> dict[str, Any]:
    """One datagram from a socket that has no peer, and the answer to it."""
    made = _sockets.get(order.get("of", 0)) or socket.socket(_family(order["to"][0]), socket.SOCK_DGRAM)
    made.settimeout(order.get("timeout", 5))
    _sockets[order["id"]] = made
    made.sendto(order["say"].encode(), tuple(order["to"]))
    heard, peer = made.recvfrom(65536)
    if order.get("from_there") and peer[:2] != tuple(order["to"]):
        raise ValueError(f"an answer from {peer}")
    return {"heard": heard.decode(), "port": made.getsockname()[1]}


def peer(order: dict[str, Any]) -> dict[str, Any]:
    """Who the other end of an open connection is, as address and port."""
    address, port = _sockets[order["of"]].getpeername()[:2]
    return {"heard": f"{address} {port}"}


def say(order: dict[str, Any]) -> dict[str, Any]:
    """Sends ``say`` on an open connection ``times`` times, and waits for as much; "" is not sent."""
    made = _sockets[order["of"]]
    made.settimeout(order.get("timeout", 5))
    text = order.get("say", "").encode()
    heard = b""
    for _ in range(order.get("times", 1)):
        if text:
            made.sendall(text)
            heard += made.recv(65536)
    return {"heard": heard.decode(), "port": made.getsockname()[1]}


def send(order: dict[str, Any]) -> dict[str, Any]:
    """Sends each of ``say`` in turn on an open connection, and waits for nothing."""
    for text in order["say"]:
        _sockets[order["of"]].sendall(text.encode())
    return {}


def hear(order: dict[str, Any]) -> dict[str, Any]:
    """Waits for what comes on an open connection."""
    made = _sockets[order["of"]]
    made.settimeout(order.get("timeout", 5))
    return {"heard": made.recv(65536).decode()}


def listen(order: dict[str, Any]) -> dict[str, Any]:
    """A TCP server on ``to`` that echoes, each connection in a thread."""
    made = socket.create_server(tuple(order["to"]), family=socket.AddressFamily(_family(order["to"][0])))
    _sockets[order["id"]] = made
    threading.Thread(target=_serve, args=(made,), daemon=True).start()
    return {"port": made.getsockname()[1]}


def _serve(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(peer,), daemon=True).start()


def _echo(peer: socket.socket) -> None:
    with peer:
        while data := peer.recv(65536):
            peer.sendall(data)


def bound(order: dict[str, Any]) -> dict[str, Any]:
    """A datagram server on ``to`` that echoes."""
    made = socket.socket(_family(order["to"][0]), socket.SOCK_DGRAM)
    made.bind(tuple(order["to"]))
    _sockets[order["id"]] = made

    def serve() -> None:
        while True:
            data, peer = made.recvfrom(65536)
            made.sendto(data, peer)

    threading.Thread(target=serve, daemon=True).start()
    return {"port": made.getsockname()[1]}


def close(order: dict[str, Any]) -> dict[str, Any]:
    """Closes what an earlier order opened."""
    _sockets.pop(order["of"]).close()
    return {}


def flood(order: dict[str, Any]) -> dict[str, Any]:
    """Connects to each of ``targets`` (address, port) in turn: the error names and seconds, in order."""
    results = []
    for address, port in order["targets"]:
        begun = time.monotonic()
        error = None
        with socket.socket(_family(address), socket.SOCK_STREAM) as made:
            made.settimeout(order.get("timeout", 5))
            try:
                made.connect((address, port))
            except OSError as failure:
                error = type(failure).__name__
        results.append([error, time.monotonic() - begun])
    return {"results": results}


ORDERS = {
    "tcp": tcp,
    "udp": udp,
    "sendto": sendto,
    "say": say,
    "send": send,
    "peer": peer,
    "hear": hear,
    "listen": listen,
    "bound": bound,
    "close": close,
    "flood": flood,
}


def _carry_out(order: dict[str, Any]) -> None:
    begun = time.monotonic()
    answer: dict[str, Any] = {"id": order["id"], "error": None, "heard": "", "port": 0}
    try:
        answer |= ORDERS[order["do"]](order)
    except Exception as error:  # whoever gave the order judges what went wrong
        answer["error"] = type(error).__name__
    answer["seconds"] = time.monotonic() - begun
    with _output:
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Carries out orders until there are no more."""
    for line in sys.stdin:
        threading.Thread(target=_carry_out, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
