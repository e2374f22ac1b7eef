"""Shows what each program sends and receives, while it does. Everything is accepted.

    sudo .venv/bin/python examples/watch_totals.py curl -so /dev/null http://web.lab/bytes/2000000000

runs the command in a lab, a private network that vanishes afterwards. With --cgroup or --netns it watches
what runs there until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from rich.live import Live
from rich.table import Table

from tidewaiter import Connection, Counted, Ended, Established, Firewall, Policy, Scope
from tidewaiter.lab.world import World


def table(programs: dict[str, dict[int, Connection]]) -> Table:
    """A row for each program: open and ended connections, and payload bytes both ways."""
    result = Table(box=None, pad_edge=False)
    for heading in ("program", "open", "ended", "sent", "received"):
        result.add_column(heading, justify="left" if heading == "program" else "right")
    for path, known in sorted(programs.items()):
        ended = sum(bool(connection.ended) for connection in known.values())
        sent = sum(connection.sent for connection in known.values())
        received = sum(connection.received for connection in known.values())
        result.add_row(path, *(f"{number:,}" for number in (len(known) - ended, ended, sent, received)))
    return result


async def watch(firewall: Firewall) -> None:
    """Redraws the table when it changes; never returns."""
    programs: defaultdict[str, dict[int, Connection]] = defaultdict(dict)
    with Live(table(programs), refresh_per_second=8) as live:
        async for event in firewall.events():
            connection = event.connection
            programs[connection.process.path][connection.id] = connection
            if isinstance(event, Established | Counted | Ended):
                live.update(table(programs))


async def guard(scope: Scope, lab: World | None, command: list[str]) -> int:
    """Watches until the command has ended; without a lab, until Ctrl-C."""
    name = lab.name if lab else "host"
    async with Firewall(Policy(), scope=scope, name=name, watch=True, count_every=0.5) as firewall:
        watching = asyncio.create_task(watch(firewall))
        if lab is None:
            await watching
            return 0
        status: int = await asyncio.to_thread(lab.popen(command).wait)
        await asyncio.sleep(0.3)  # it hears of an end within a tenth of a second
        watching.cancel()
        return status


def main() -> int:
    """Reads the command line. Returns the command's exit status."""
    parser = argparse.ArgumentParser(description="Show what each program sends and receives.")
    parser.add_argument("--cgroup", type=Path, help="watch this control group")
    parser.add_argument("--netns", type=Path, help="watch this network namespace (a path)")
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
