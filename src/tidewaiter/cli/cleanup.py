"""``tidewaiter cleanup``: remove what a crash left behind."""

from __future__ import annotations

import click

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.host import install, state


@click.command(context_settings=HELP)
@click.option("--name", help="Only this firewall.  [default: every one that does not run]")
def cleanup(name: str | None) -> None:
    """Remove programs, pins and rules of firewalls that were killed.

    A firewall that was killed goes on enforcing what the kernel knows, and one that starts again takes over; this is
    for when none shall start again. One that runs is left alone.

    \b
    Example:
      tidewaiter cleanup
    """
    failures: list[str] = []
    with one_sentence():
        names = [name] if name else state.names()
        if not names:
            click.echo("nothing is there")
        for one in names:
            try:
                failures += _clean(one, asked=name is not None)
            except state.StateError as error:
                if name is not None:
                    raise
                failures.append(str(error))  # the others can be removed all the same
    if failures:
        raise Failure("not removed: " + "; ".join(failures))


def _clean(name: str, *, asked: bool) -> list[str]:
    """Removes one, and says so. Returns what could not be removed; raises StateError."""
    old = state.load(name)
    if not asked and old is not None and old.alive:
        click.echo(f"{name}: runs as process {old.pid}, left alone")
        return []
    if old is None and not (state.PINS / name).exists():
        click.echo(f"{name}: nothing is there")
        return []
    if old is None and not asked:  # of a container with a /run of its own, say
        click.echo(f"{name}: whether it runs is not known here, left alone; --name {name} removes it")
        return []
    left = install.clean_up(name)
    if not left:
        click.echo(f"{name}: removed")
    return left
