"""``tidewaiter doctor``: what this machine has and lacks for Tidewaiter, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidewaiter.cli.help import HELP
from tidewaiter.host.doctor import complete, examine
from tidewaiter.kernel.features import Feature

_WIDTH = 80  # columns: the least that a terminal has
_NAMES, _WORDS = 25, 7  # columns for the names of features, and for the word after each


@click.command(context_settings=HELP)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def doctor(as_json: bool) -> None:
    """Say what this machine has and lacks, what each is for, and what to do.

    Everything is tried, in a control group and a network namespace of its own that are removed afterwards; no
    traffic is touched. Exit status 1 when something is missing that is required.

    \b
    Examples:
      sudo tidewaiter doctor
      tidewaiter doctor --json | jq '.kernel[] | select(.present | not)'
    """
    found = examine()
    ready = complete(found)
    if as_json:
        groups = {name: [asdict(one) for one in group] for name, group in found.items()}
        click.echo(json.dumps({"complete": ready, **groups}))
    else:
        _print(found, ready=ready)
    sys.exit(0 if ready else 1)


def _print(found: dict[str, list[Feature]], *, ready: bool) -> None:
    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    for name, group in found.items():
        console.print(_table(name, group))
        console.print()
    missing = [one for group in found.values() for one in group if not one.present]
    for line in _remedies(missing):
        console.print(line)
    if missing:
        console.print()
    if ready:
        console.print(Text("Everything that is required is there.", style="bold green"))
    else:
        lacking = sum(one.required for one in missing)
        console.print(
            Text(
                f"{lacking} required {'thing is' if lacking == 1 else 'things are'} missing.",
                style="bold red",
            )
        )


def _table(title: str, group: Iterable[Feature]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=_NAMES)
    table.add_column(no_wrap=True, width=_WORDS)
    table.add_column()
    table.add_row(Text(title, style="bold"))
    for one in group:
        table.add_row(Text(f"  {one.name}"), _word(one), Text(one.purpose))
    return table


def _word(one: Feature) -> Text:
    if one.present:
        return Text("yes", style="green")
    return Text("MISSING", style="bold red") if one.required else Text("no", style="yellow")


def _remedies(missing: Iterable[Feature]) -> Iterable[Text]:
    """What to do, and why, once for all that lack for the same reason."""
    same: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        same.setdefault((one.detail, one.remedy), []).append(one.name)
    for (detail, remedy), names in same.items():
        reason = f": {detail}" if detail else ""
        yield Text.assemble((", ".join(names), "bold"), f"{reason}\n  → {remedy}")
