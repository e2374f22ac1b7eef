"""``tidewaiter policy``: look after a policy file."""

from __future__ import annotations

import json
import sys

import click

from tidewaiter.cli.help import HELP
from tidewaiter.model.key import Direction
from tidewaiter.policy import Policy, PolicyError, compile_tables


@click.group(context_settings=HELP)
def policy() -> None:
    """Check policy files."""


@policy.command(context_settings=HELP)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
def check(file: str, as_json: bool) -> None:
    """Read FILE and say in one line what it holds, or where it is wrong (exit status 1).

    \b
    Example:
      tidewaiter policy check policy.toml
    """
    try:
        loaded = Policy.load(file)
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    tables = compile_tables(loaded)
    rules = len(loaded.rules)
    in_kernel = sum(not action.consult for action in tables.actions[: tables.rules])
    defaults = {direction.word: loaded.default(direction).value for direction in Direction}
    if as_json:
        summary = {"file": file, "rules": rules, "kernel": in_kernel, "consult": rules - in_kernel}
        click.echo(json.dumps({**summary, "default": defaults}))
        return
    words = ", ".join(f"{direction} {answer}" for direction, answer in defaults.items())
    click.echo(
        f"{file}: {rules} rule{'' if rules == 1 else 's'} ({in_kernel} decided in the kernel, "
        f"{rules - in_kernel} in Python); default {words}"
    )
