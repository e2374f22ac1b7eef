"""``tidewaiter driver``: the driver alone; another program, in any language, owns it and decides."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import (
    VERDICTS,
    load_policy,
    scope_options,
    state_folder,
    state_option,
    waiting_options,
)
from tidewaiter.cli.watching import changes, signals
from tidewaiter.host.privileges import drop_privileges, missing_privileges
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.host.state import RUN
from tidewaiter.kernel import bpffs
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.service.device import Access, DeviceError, DeviceServer
from tidewaiter.service.owned import ASK
from tidewaiter.service.settings import Settings
from tidewaiter.service.systemd import notify, passed_socket, path_of

_LOOK = 0.2
_PORT = click.IntRange(1, 65535)
_DEVICE = RUN / "device"


def _access(_context: click.Context, _parameter: click.Parameter, value: str) -> Access:
    try:
        return Access.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(context_settings=HELP)
@click.option(
    "--device",
    type=click.Path(path_type=Path),
    help=f"Where the owner connects: a Unix socket.  [default: the one that systemd passes, or {_DEVICE}]",
)
@click.option(
    "--access",
    default="root",
    show_default=True,
    callback=_access,
    metavar="root|group:NAME|any",
    help="Who may be the owner.",
)
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    help="The kernel decides by this (TOML), from the start; the owner is asked what it says to ask. Without one, all.",
)
@click.option(
    "--redirect/--no-redirect",
    default=True,
    show_default=True,
    help="Allow the verdicts that redirect. Their rules make the kernel track connections.",
)
@click.option(
    "--name-server-port", type=_PORT, default=53, show_default=True, help="Where RedirectNameServer leads."
)
@click.option("--tunnel-port", type=_PORT, default=717, show_default=True, help="Where RedirectTunnel leads.")
@click.option(
    "--split-tunnel-port", type=_PORT, default=719, show_default=True, help="Where RedirectSplitTunnel leads."
)
@scope_options
@waiting_options
@state_option
def driver(
    device: Path | None,
    access: Access,
    policy_file: str | None,
    redirect: bool,
    name_server_port: int,
    tunnel_port: int,
    split_tunnel_port: int,
    cgroup: Path | None,
    netns: Path | None,
    name: str,
    fail: str,
    timeout: float,
    on_timeout: str,
    held: int,
    count: bool,
    state: Path | None,
) -> None:
    """Hold new connections for whoever owns the device.

    One owner at a time connects to the socket, reads infos and writes commands (docs/reference/wire.md). While there is
    none, what would have to be asked is dropped, or let through with --fail open. The policy file is read again when it
    changes, or on SIGHUP. Ctrl-C, or the owner's Shutdown, stops and takes everything away.

    It gives away every privilege that it does not need (docs/reference/privileges.md), and can be started by systemd
    (docs/howto/run-as-a-service.md).

    \b
    Examples:
      tidewaiter driver --device /run/tidewaiter/device
      tidewaiter driver --access group:firewall --cgroup /sys/fs/cgroup/user.slice
      tidewaiter lab --device /tmp/device -- sh -c 'python3 examples/owner.py /tmp/device & curl $LAB_HTTP'
    """
    missing = missing_privileges(entering=netns is not None)
    if missing:
        raise Failure(missing)
    with signals() as seen:
        with one_sentence():
            watched: list[str] = []
            changed = changes(policy_file, lambda: watched)
            next(changed)  # what changes while we start counts
            ports = RedirectPorts(name_server_port, tunnel_port, split_tunnel_port) if redirect else None
            try:
                settings = Settings(
                    name=name,
                    scope=Scope.of(cgroup, netns),
                    fail=fail,
                    timeout=timeout,
                    on_timeout=VERDICTS[on_timeout],
                    held=held,
                    count=count,
                    redirect=ports,
                    state=state_folder(state, name),
                )
            except ValueError as error:
                raise Failure(str(error)) from error
            policy = load_policy(policy_file) if policy_file else ASK
            watched += policy.files + policy.folders
            server = _server(device, settings, access, policy)
            bpffs.ensure()
            drop_privileges(entering=netns is not None)
            server.start()
        notify("READY=1", f"STATUS=Holding {settings.scope}")
        click.echo(f"Holding {settings.scope} for the owner of {server.path}; Ctrl-C to stop.", err=True)
        while signal.SIGTERM not in seen and not server.finished.wait(_LOOK):
            if next(changed) or signal.SIGHUP in seen:
                seen.discard(signal.SIGHUP)
                if loaded := _reload(server, policy_file):
                    watched[:] = loaded.files + loaded.folders
        notify("STOPPING=1")
        for left in server.stop():
            click.echo(f"not removed: {left}", err=True)
    failure = server.failure or server.engine.failure
    if failure is not None:
        raise Failure(f"the driver ended by an error: {failure}")


def _server(device: Path | None, settings: Settings, access: Access, policy: Policy) -> DeviceServer:
    """At the socket that systemd has passed, or at one that is made while we still may give it to a group."""
    passed = passed_socket()
    path = path_of(passed) if passed else device or _DEVICE
    if device not in (None, path):
        raise DeviceError(f"systemd has passed the socket {path}: leave --device away, or name that one")
    server = DeviceServer(path, settings, access, policy=policy, passed=passed)
    server.listen()
    return server


def _reload(server: DeviceServer, policy_file: str | None) -> Policy | None:
    """The policy that is in force now, if it is another one."""
    if policy_file is None:
        return None
    try:
        policy = Policy.load(policy_file)
        server.load(policy)
    except (PolicyError, KernelError) as error:
        reason = error.strerror if isinstance(error, KernelError) else error
        click.echo(f"{reason}; the policy in force stays", err=True)
    else:
        click.echo(f"{policy_file} is in force", err=True)
        return policy
    return None
