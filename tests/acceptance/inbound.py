"""A server for one client and its client: ``inbound.py serve|ask ADDRESS PORT tcp|udp`` echo four messages.

The server prints the port that it got, the client the address and port from which it asked. Both end by themselves.
"""

from __future__ import annotations

import socket
import sys

_TIMES, _SIZE = 4, 200


def serve(address: str, port: int, family: socket.AddressFamily, kind: str) -> None:
    """Listen, say where, and echo."""
    if kind == "udp":
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind((address, port))
            print(server.getsockname()[1], flush=True)
            for _ in range(_TIMES):
                server.sendto(*server.recvfrom(_SIZE))
        return
    with socket.create_server((address, port), family=family) as listener:
        print(listener.getsockname()[1], flush=True)
        server, _ = listener.accept()
    with server:
        while data := server.recv(_SIZE):
            server.sendall(data)


def ask(address: str, port: int, family: socket.AddressFamily, kind: str) -> None:
    """Ask, and say from where."""
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect((address, port))
        for _ in range(_TIMES):
            client.send(bytes(_SIZE))
            left = _SIZE
            while left:
                left -= len(client.recv(left))
        print(*client.getsockname()[:2])


def main() -> None:
    """One of the two."""
    side, address, port, kind = sys.argv[1:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    {"serve": serve, "ask": ask}[side](address, int(port), family, kind)


if __name__ == "__main__":
    main()
