"""``tidewaiter driver``: the driver alone; another program, in any language, owns it and decides."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import VERDICTS, scope_options, waiting_options
from tidewaiter.host.privileges import missing_privileges
from tidewaiter.host.scope import Scope
from tidewaiter.service.device import Access, DeviceServer
from tidewaiter.service.engine import Settings

_LOOK = 0.2


def _access(_context: click.Context, _parameter: click.Parameter, value: str) -> Access:
    try:
        return Access.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(context_settings=HELP)
@click.option(
    "--device",
    type=click.Path(path_type=Path),
    default="/run/tidewaiter/device",
    show_default=True,
    help="Where the owner connects: a Unix socket.",
)
@click.option(
    "--access",
    default="root",
    show_default=True,
    callback=_access,
    metavar="root|group:NAME|any",
    help="Who may be the owner.",
)
@scope_options
@waiting_options
def driver(
    device: Path,
    access: Access,
    cgroup: Path | None,
    netns: Path | None,
    name: str,
    fail: str,
    timeout: float,
    on_timeout: str,
    held: int,
) -> None:
    """Hold every new connection for whoever owns the device.

    One owner at a time connects to the socket, reads infos and writes commands (docs/reference/wire.md). While there is
    none, what would have to be asked is dropped, or let through with --fail open. Ctrl-C, or the owner's Shutdown,
    stops and takes everything away.

    \b
    Examples:
      tidewaiter driver --device /run/tidewaiter/device
      tidewaiter driver --access group:firewall --cgroup /sys/fs/cgroup/user.slice
      tidewaiter lab --device /tmp/device -- sh -c 'python3 examples/owner.py /tmp/device & curl $LAB_HTTP'
    """
    missing = missing_privileges()
    if missing:
        raise Failure(missing)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with one_sentence():
        settings = Settings(
            name=name,
            scope=Scope.of(cgroup, netns),
            fail_open=fail == "open",
            timeout=timeout,
            on_timeout=VERDICTS[on_timeout],
            held=held,
        )
        server = DeviceServer(device, settings, access)
        server.start()
    click.echo(f"Holding {settings.scope} for the owner of {device}; Ctrl-C to stop.", err=True)
    while not stop.is_set() and not server.finished.wait(_LOOK):
        pass
    for left in server.stop():
        click.echo(f"not removed: {left}", err=True)
    failure = server.failure or server.engine.failure
    if failure is not None:
        raise Failure(f"the driver ended by an error: {failure}")
