"""Only the programs that you name may connect; at the end it says how many bytes each program has moved.

    sudo .venv/bin/python examples/allow_list.py --allow /usr/bin/curl sh -c 'curl http://web.lab/; nc -z web.lab 80'

runs the command in a lab, a private network that vanishes afterwards. With --cgroup or --netns it guards
what runs there until Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tidewaiter import Connection, Counted, Decided, Ended, Firewall, Scope, Verdict
from tidewaiter.driver.core import Event
from tidewaiter.lab.world import World


class AllowList:
    """Decides by the path of the program, and adds up what happened. Called in the firewall's thread."""

    def __init__(self, allowed: set[str]) -> None:
        """``allowed`` are paths of executables, as the kernel sees them (no symbolic links)."""
        self._allowed = allowed
        self.carried: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def decide(self, connection: Connection) -> Verdict:
        """The verdict for the whole connection."""
        allowed = connection.process.path in self._allowed
        return Verdict.PERMANENT_ACCEPT if allowed else Verdict.PERMANENT_BLOCK

    def hear(self, event: Event | Counted) -> None:
        """Counts refusals when they happen, and bytes when a connection ends."""
        program = event.connection.process.path
        if isinstance(event, Decided) and event.connection.verdict.rejects:
            self.refused[program] += 1
        elif isinstance(event, Ended):
            self.carried[program] += event.connection.sent + event.connection.received

    def print_summary(self) -> None:
        """One line for each program."""
        for program in sorted(self.carried | self.refused):
            print(f"{program}: {self.carried[program]} bytes, {self.refused[program]} refused")


def main() -> int:
    """Reads the command line. Returns the command's exit status."""
    parser = argparse.ArgumentParser(description="Let only some programs connect.")
    parser.add_argument("--allow", action="append", default=[], metavar="PROGRAM", help="may connect")
    parser.add_argument("--cgroup", type=Path, help="guard this control group")
    parser.add_argument("--netns", type=Path, help="guard this network namespace (a path)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run in the lab")
    options = parser.parse_args()
    rules = AllowList({str(Path(path).resolve()) for path in options.allow})
    status = 0
    if options.cgroup or options.netns:
        scope = Scope.of(options.cgroup, options.netns)
        guard = Firewall(decide=rules.decide, listener=rules.hear, scope=scope)
        with suppress(KeyboardInterrupt), guard:
            guard.wait()
    else:
        with World() as lab:
            scope = Scope.of(lab.cgroup, lab.client_namespace)
            with Firewall(decide=rules.decide, listener=rules.hear, scope=scope, name=lab.name):
                status = lab.popen(options.command or ["curl", "http://web.lab/"]).wait()
                time.sleep(0.3)  # it hears of an end within a tenth of a second
    rules.print_summary()
    return status


if __name__ == "__main__":
    sys.exit(main())
