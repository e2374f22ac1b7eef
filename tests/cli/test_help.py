"""What every command has in common."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from tidewaiter.cli.help import HELP
from tidewaiter.cli.main import main


def every(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """A command and all below it."""
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            inner = command.get_command(context, below)
            assert inner is not None
            found += every(inner, f"{name} {below}")
    return found


@pytest.mark.parametrize(("name", "command"), every(main, "tidewaiter"))
def test_help_is_the_same_alone_and_below_another(name: str, command: click.Command) -> None:
    for flag in HELP["help_option_names"]:
        shown = CliRunner().invoke(command, [flag], prog_name=name)
        assert shown.exit_code == 0
        assert "-h, --help" in shown.output
