"""A firewall in a process of its own, and how full everything in it is: ``flooded.py CGROUP NAMESPACE NAME``.

It asks about everything but what goes to port 7. Connections to port 80 get their answer on sight, the others never.
For each line on standard input it prints a JSON object: its statistics, and sizes. It stops with the end of its
input, and then prints what the statistics have come to.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tidewaiter import Connection, Policy, Scope, Verdict
from tidewaiter.service.engine import Engine
from tidewaiter.service.settings import Settings

POLICY = """
version = 1
[default]
out = "ask"
in = "ask"
[[rule]]
name = "known"
port = "7"
verdict = "accept"
"""


def decide(connection: Connection) -> Verdict | None:
    """Whoever could answer the flood is not there."""
    return Verdict.PERMANENT_ACCEPT if connection.key.remote_port == 80 else None


def state(engine: Engine) -> dict[str, int]:
    """Statistics, and how many there are of everything that grows; ``memory`` is in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    machine, kernel = engine.machine, engine.machine.installed.kernel
    return engine.statistics() | {
        "waiting": len(engine.driver.packets),
        "connections": len(engine.driver._connections),
        "told": len(machine.known),
        "ahead": len(machine._held),
        "closed": len(machine._closed),
        "questions": len(list(kernel.map("pending").keys())),
        "memory": pages * os.sysconf("SC_PAGESIZE"),
    }


def main() -> None:
    """Guards until there is no more input."""
    cgroup, namespace, name = sys.argv[1:]
    settings = Settings(name=name, scope=Scope.of(Path(cgroup), Path(namespace)))
    engine = Engine(Policy.parse(POLICY), settings, decide=decide)
    engine.start()
    try:
        for _ in sys.stdin:
            print(json.dumps(state(engine)), flush=True)
    finally:
        assert engine.running
        assert engine.stop() == []
    print(json.dumps({"waiting": len(engine.driver.packets)} | vars_of(engine)), flush=True)


def vars_of(engine: Engine) -> dict[str, int]:
    """The driver's counters, which outlive the firewall."""
    statistics = engine.driver.statistics
    return {name: getattr(statistics, name) for name in type(statistics).__slots__}


if __name__ == "__main__":
    main()
