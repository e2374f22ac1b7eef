"""Asks in the terminal about each new connection, and holds it until you have answered.

    sudo .venv/bin/python examples/ask_in_terminal.py curl http://web.lab/

runs the command in a lab, a private network that vanishes afterwards. With --cgroup or --netns it guards
what runs there until Ctrl-C. Standard input must be a terminal or a pipe.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tidewaiter import Firewall, Scope, Verdict
from tidewaiter.lab.world import World

ANSWERS = {"a": Verdict.PERMANENT_ACCEPT, "b": Verdict.PERMANENT_BLOCK, "d": Verdict.PERMANENT_DROP}


def typed_lines() -> asyncio.StreamReader:
    """The lines of standard input."""
    lines, loop = asyncio.StreamReader(), asyncio.get_running_loop()

    def read() -> None:
        if data := os.read(sys.stdin.fileno(), 4096):
            lines.feed_data(data)
        else:
            lines.feed_eof()
            loop.remove_reader(sys.stdin)

    loop.add_reader(sys.stdin, read)
    return lines


async def ask(firewall: Firewall, lines: asyncio.StreamReader) -> None:
    """One question after the other; the connections behind it are held meanwhile."""
    async for connection in firewall.connections():
        answer = None
        while answer is None:
            print(f"{connection}\n  [a]ccept, [b]lock or [d]rop? ", end="", flush=True)
            line = await lines.readline()
            answer = ANSWERS.get(line.decode().strip()) if line else Verdict.PERMANENT_BLOCK
        connection.answer(answer)


async def guard(scope: Scope, lab: World | None, command: list[str]) -> int:
    """Asks until the command has ended; without a lab, until Ctrl-C."""
    async with Firewall(scope=scope, name=lab.name if lab else "host", timeout=120) as firewall:
        asking = asyncio.create_task(ask(firewall, typed_lines()))
        if lab is None:
            await asking
            return 0
        status: int = await asyncio.to_thread(lab.popen(command, stdin=subprocess.DEVNULL).wait)
        asking.cancel()
        return status


def main() -> int:
    """Reads the command line. Returns the command's exit status."""
    parser = argparse.ArgumentParser(description="Ask in the terminal about each new connection.")
    parser.add_argument("--cgroup", type=Path, help="guard this control group")
    parser.add_argument("--netns", type=Path, help="guard this network namespace (a path)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run in the lab")
    options = parser.parse_args()
    if options.cgroup or options.netns:
        return asyncio.run(guard(Scope.of(options.cgroup, options.netns), None, []))
    with World() as lab:
        scope = Scope.of(lab.cgroup, lab.client_namespace)
        return asyncio.run(guard(scope, lab, options.command or ["curl", "http://web.lab/"]))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
