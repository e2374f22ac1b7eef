"""The same addresses and ports in two network namespaces are two connections."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acceptance.harness import PYTHON
from livelab import new_name
from tidewaiter import Connection, Firewall, Scope, Verdict
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

TALK = """
import socket, sys
kind = getattr(socket, sys.argv[1])
server, client = socket.socket(type=kind), socket.socket(type=kind)
for one, port in (server, 7001), (client, 40001):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.settimeout(2)
    one.bind(("127.0.0.1", port))
if kind == socket.SOCK_STREAM:
    server.listen()
try:
    client.connect(("127.0.0.1", 7001))
    if kind == socket.SOCK_STREAM:
        server, _ = server.accept()
    for _ in range(2):
        client.send(b"x")
        print(server.recv(9).decode(), flush=True)
        sys.stdin.readline()
except OSError as error:
    print(type(error).__name__, flush=True)
"""


@contextmanager
def talking(world: World, namespace: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """A program that talks to itself there: says what has arrived, and once more for a line of its input."""
    command = ["nsenter", f"--net={namespace}", PYTHON, "-c", TALK, kind]
    pipe = subprocess.PIPE
    with world.popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
@pytest.mark.parametrize("allowed", [1, 2])
def test_they_do_not_collide(world: World, kind: str, allowed: int) -> None:
    seen: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        seen.append(connection)
        mine = connection.key.namespace == allowed
        return Verdict.PERMANENT_ACCEPT if mine else Verdict.PERMANENT_BLOCK

    places = [world.client_namespace, world.server_namespace]
    scope = Scope(world.cgroup, tuple(places))
    with Firewall(decide=decide, scope=scope, name=new_name(world)):
        for order in (places, places[::-1]):
            with talking(world, order[0], kind) as first, talking(world, order[1], kind) as second:
                heard = {order[0]: said(first), order[1]: said(second)}
                assert heard.pop(places[allowed - 1]) == "x"
                refused = {"SOCK_STREAM": "ConnectionRefusedError", "SOCK_DGRAM": "TimeoutError"}
                assert heard.popitem()[1] == refused[kind]
                going = first if order[0] == places[allowed - 1] else second
                assert going.stdin is not None
                going.stdin.write("\n")
                going.stdin.flush()
                assert said(going) == "x", "the other one's verdict is not its own"
    ends = {(one.key.local_endpoint, one.key.remote_endpoint, one.key.namespace) for one in seen}
    assert {namespace for _, _, namespace in ends} == {1, 2}
    assert len({end[:2] for end in ends if end[1].endswith(":7001")}) == 1
