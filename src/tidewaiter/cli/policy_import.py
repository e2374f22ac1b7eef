"""``tidewaiter policy import`` and ``export``: policies of other firewalls, and ours in one piece."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from tidewaiter.cli.help import HELP
from tidewaiter.cli.printable import printable
from tidewaiter.policy import Policy, PolicyError
from tidewaiter.policy.imported import Imported
from tidewaiter.policy.opensnitch import import_opensnitch
from tidewaiter.policy.portmaster import import_portmaster
from tidewaiter.policy.spelling import policy_words
from tidewaiter.policy.writing import toml_policy

_MAX_RULES = 100_000
_MAX_FILE = 4 * 1024 * 1024

_output = click.option(
    "-o", "--output", metavar="FILE", help="Write the policy there instead of to standard output."
)


@click.group("import", context_settings=HELP)
def import_group() -> None:
    """Take over the policy of another firewall.

    The policy goes to standard output, and what became of each rule to standard error, line by line. The exit
    status is 1 if a rule could not be carried over.

    \b
    Example:
      tidewaiter policy import opensnitch /etc/opensnitchd/rules -o policy.toml
    """


@import_group.command(context_settings=HELP)
@click.argument("directory", metavar="DIR")
@_output
def opensnitch(directory: str, output: str | None) -> None:
    """Take over OpenSnitch's rules, the .json files of DIR.

    \b
    Example:
      tidewaiter policy import opensnitch /etc/opensnitchd/rules -o policy.toml
    """
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        paths = [path for path in Path(directory).iterdir() if path.suffix == ".json" and path.is_file()]
        if len(paths) > _MAX_RULES:
            raise click.ClickException(f"{directory} has more than {_MAX_RULES} rules.")
        files = {path.name: _read(path) for path in paths}
    except OSError as error:
        raise click.ClickException(f"{directory} cannot be read ({error.strerror}).") from None
    _finish(import_opensnitch(files, _folder, lambda seconds: now + timedelta(seconds=seconds)), output)


@import_group.command(context_settings=HELP)
@click.argument("file", metavar="FILE")
@_output
@click.option("--lists", default="", metavar="DIR", help="Where the filter lists are: DIR/ID.txt for L:ID.")
@click.option(
    "--direction",
    type=click.Choice(["out", "in"]),
    default="out",
    show_default=True,
    help="Out for endpoints, in for service endpoints.",
)
def portmaster(file: str, output: str | None, lists: str, direction: str) -> None:
    """Take over a list of Portmaster's endpoint rules, one a line in FILE (- for standard input).

    \b
    Example:
      tidewaiter policy import portmaster endpoints.txt -o policy.toml
    """
    try:
        data = sys.stdin.buffer.read(_MAX_FILE) if file == "-" else _read(Path(file))
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read ({error.strerror}).") from None
    lines = data.decode(errors="replace").splitlines()
    _finish(import_portmaster(lines, "" if file == "-" else file, lists=lists, direction=direction), output)


@click.command(context_settings=HELP)
@click.argument("file")
@_output
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of TOML.")
def export(file: str, output: str | None, as_json: bool) -> None:
    """Print the policy of FILE with all that it includes as one document.

    \b
    Example:
      tidewaiter policy export policy.toml -o whole.toml
    """
    try:
        words = policy_words(Policy.load(file))
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    _write(json.dumps(words, indent=2, default=str) + "\n" if as_json else toml_policy(words), output)


def _finish(found: Imported, output: str | None) -> None:
    text = found.text()
    for note in found.notes:
        click.echo(printable(note), err=True)
    try:
        Policy.parse(text, output or "imported policy")
    except PolicyError as error:  # of all rules together: each is good by itself
        click.echo(str(error), err=True)
        found.lost += 1
    _write(text, output)
    carried = len(found.notes) - found.lost
    click.echo(f"{carried} of theirs carried over, {found.lost} not", err=True)
    sys.exit(found.lost > 0)


def _write(text: str, output: str | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror}).") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE)


def _folder(directory: str) -> Mapping[str, bytes]:
    return {path.name: _read(path) for path in Path(directory).iterdir() if path.is_file()}
