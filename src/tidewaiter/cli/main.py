"""The command ``tidewaiter`` itself: a group whose commands are loaded when they are used."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import click

from tidewaiter import __version__
from tidewaiter.cli.help import HELP

_COMMANDS = {
    "run": "Guard or watch this host.",
    "driver": "Hold connections for another program that decides.",
    "connections": "Show what is open now: who, where, how much.",
    "policy": "Check, explain, test, change and import policy files.",
    "lab": "Run a command in a private network under the firewall.",
    "doctor": "Say what this machine has and lacks.",
    "cleanup": "Remove what a crash left behind.",
    "wire": "Read and write the protocol between the driver and its owner.",
}


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


class _Lazy(click.Group):
    """Loads a command's module only when it is called: `tidewaiter policy check` needs no kernel."""

    def main(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 # as click has it
        """Says in one sentence that there is nowhere to print to; without any output at all nothing is to be said."""
        if not sys.stdout:
            sys.stdout = _nowhere()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in _NO_ROOM or error.filename is not None:
                raise
            sys.stdout = _nowhere()  # what is left would be tried once more at the end
            click.ClickException(f"The output cannot be written: {error.strerror}.").show()
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"tidewaiter.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings=HELP)
@click.version_option(__version__, prog_name="tidewaiter")
def main() -> None:
    """Tidewaiter meets every new connection in the kernel, and clears it by your policy or your Python.

    \b
    See what this machine talks to, without touching anything:
      tidewaiter run --mode observe
    Enforce a policy:
      tidewaiter run --policy policy.toml
    Try it in a private network that vanishes afterwards:
      tidewaiter lab -- sh -c 'curl $LAB_HTTP'

    Shell completion: eval "$(_TIDEWAITER_COMPLETE=bash_source tidewaiter)" (or zsh_source, fish_source).
    """
