"""``tidewaiter connections``: what is open now, read from the maps of the firewall that runs."""

from __future__ import annotations

import json
import sys
import time

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.output import STYLES, has_width, size
from tidewaiter.cli.printable import printable
from tidewaiter.host import state
from tidewaiter.host.snapshot import Snapshot
from tidewaiter.service.report import Clock, Line, describe

_EVERY = 1.0
_WIDE = 1000  # columns in a file or a pipe


@click.command(context_settings=HELP)
@click.option("--name", default="host", show_default=True, help="Which firewall.")
@click.option("--once", is_flag=True, help="Print once and end. [default: go on, if this is a terminal]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, once.")
def connections(name: str, once: bool, as_json: bool) -> None:
    """Show the connections that are open: who, what, where, by which rule, how much.

    \b
    Examples:
      tidewaiter connections
      tidewaiter connections --json | jq -r .program | sort | uniq -c
    """
    with one_sentence():
        snapshot = Snapshot.open(name)
        if snapshot is None:
            others = ", ".join(other for other in state.names() if other != name)
            do = f"--name takes one of {others}" if others else "start one with `tidewaiter run`"
            raise Failure(f"no firewall {name!r} runs here; {do}")
        known = state.load(name)
        if known is not None and not known.alive:
            left = "its kernel half goes on: `tidewaiter run` takes over from it, `tidewaiter cleanup` removes it"
            click.echo(f"The firewall {name!r} has ended (process {known.pid}); {left}.", err=True)
        try:
            if as_json:
                for line in _lines(snapshot):
                    click.echo(json.dumps(line))
            elif once or not sys.stdout.isatty():
                console = Console()
                console.print(_table(_lines(snapshot)), width=None if has_width(console) else _WIDE)
            else:
                _follow(snapshot)
        finally:
            snapshot.close()


def _lines(snapshot: Snapshot) -> list[Line]:
    clock = Clock()
    lines = []
    for number, connection in enumerate(snapshot.read(), start=1):
        connection.id = number
        line: Line = {"event": "connection", "time": clock.wall(connection.opened)} | describe(connection)
        line |= {"sent": connection.sent, "received": connection.received}
        lines.append(line | {"duration": max(0.0, time.time() - line["time"])})
    return lines


def _table(lines: list[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("verdict", "program", "remote", "rule"):
        table.add_column(heading, min_width=7)  # these give way where the terminal is narrow
    for heading in ("sent", "received"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=8)
    for line in sorted(lines, key=lambda line: -(line["sent"] + line["received"])):
        who = line["program"].rpartition("/")[2] or "unknown"
        arrow = {"out": "→", "in": "←"}.get(line["direction"], "↔")
        rule = f"{line['rule']} · {line['tier']}" if line["rule"] else line["tier"]
        table.add_row(
            _cell(line["verdict"], STYLES.get(line["verdict"], "")),
            _cell(f"{who} ({line['pid']})"),
            _cell(f"{arrow} {line['remote']} {line['protocol']}"),
            _cell(rule),
            size(line["sent"]),
            size(line["received"]),
        )
    return table


def _cell(text: str, style: str = "") -> Text:
    """A line of its own, as it is: brackets around an IPv6 address are no markup."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _follow(snapshot: Snapshot) -> None:
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(_table(_lines(snapshot)), refresh=True)
                time.sleep(_EVERY)
        except KeyboardInterrupt:
            return
