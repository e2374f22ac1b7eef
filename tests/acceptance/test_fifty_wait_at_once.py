"""Fifty programs held at once are decided in any order, and each gets its own answer."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livelab import PATIENCE, Capture, scope_of
from tidewaiter import Firewall, HeldConnection, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

FIFTY = 50
_ANSWERS = (Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_BLOCK, Verdict.PERMANENT_DROP)
_GIVES_UP = 6.0  # seconds: long after the last answer
# The connection waits, and its program with it; the exit status says what came of it.
_PROGRAM = f"""
import socket, sys
number, address, kind = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
made.settimeout({_GIVES_UP})
try:
    made.connect((address, 7))
    made.send(number.encode())
    sys.exit(10 if made.recv(100) == number.encode() else 13)
except (ConnectionRefusedError, PermissionError):
    sys.exit(11)
except TimeoutError:
    sys.exit(12)
"""
_STATUS = dict(zip(_ANSWERS, (10, 11, 12), strict=True))


def _start(world: World, script: Path, number: int) -> subprocess.Popen[str]:
    address = plan.ECHO[number % 2]
    kind = ("tcp", "tcp", "udp")[number % 3]
    return world.popen([sys.executable, "-S", "-E", script, str(number), address, kind])


def test_each_gets_its_own_answer(world: World, capture: Capture, name: str, tmp_path: Path) -> None:
    script = tmp_path / "held.py"
    script.write_text(_PROGRAM)
    chance = random.Random(50)
    dropped_ports = set()

    async def main() -> None:
        async with Firewall(scope=scope_of(world), name=name) as firewall:
            programs = [_start(world, script, number) for number in range(FIFTY)]
            held: dict[int, HeldConnection] = {}
            async for one in firewall.connections():
                held[one.process.pid] = one
                if len(held) == FIFTY:
                    break
            assert set(held) == {program.pid for program in programs}
            for number, program in enumerate(programs):  # whose is whose
                assert held[program.pid].process.arguments[4] == str(number)
            assert [program.poll() for program in programs] == [None] * FIFTY
            assert capture.to_port(7) == []

            answers = {
                program.pid: _ANSWERS[number % len(_ANSWERS)] for number, program in enumerate(programs)
            }
            order = chance.sample(programs, FIFTY)
            waiting = {program.pid for program in programs}
            for program in order:
                verdict = answers[program.pid]
                if verdict is Verdict.PERMANENT_DROP:
                    dropped_ports.add(held[program.pid].key.local_port)
                held[program.pid].answer(verdict)
                waiting.discard(program.pid)
                if verdict is not Verdict.PERMANENT_DROP:
                    assert await asyncio.to_thread(program.wait, PATIENCE) == _STATUS[verdict]
                # nobody else has been let go or refused
                assert all(one.poll() is None for one in programs if one.pid in waiting)
            for program in programs:
                status = await asyncio.to_thread(program.wait, PATIENCE)
                assert status == _STATUS[answers[program.pid]]

    begun = time.monotonic()
    asyncio.run(asyncio.wait_for(main(), 60))
    assert time.monotonic() - begun < 30
    assert dropped_ports
    reached = {packet.source_port for packet in capture.to_port(7)}
    assert not reached & dropped_ports
