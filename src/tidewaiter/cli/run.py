"""``tidewaiter run``: guard this host, a control group or a network namespace, until told to stop."""

from __future__ import annotations

import signal
from pathlib import Path

import click
from click.core import ParameterSource

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import (
    VERDICTS,
    firewall_options,
    load_policy,
    scope_options,
    state_folder,
    state_option,
)
from tidewaiter.cli.output import Output
from tidewaiter.cli.replayed import replay_example
from tidewaiter.cli.watching import PolicyFile, signals
from tidewaiter.host.privileges import drop_privileges, missing_privileges
from tidewaiter.host.scope import Scope
from tidewaiter.kernel import bpffs
from tidewaiter.kernel.objects import Mode
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.service.engine import Engine
from tidewaiter.service.remote import RemoteEngine
from tidewaiter.service.report import Reporter
from tidewaiter.service.settings import Settings
from tidewaiter.service.systemd import notify

_LOOK = 0.5  # seconds between two looks at the policy file
_OF_THE_DRIVER = ("mode", "cgroup", "netns", "name", "fail", "count")


@click.command(context_settings=HELP)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="enforce",
    show_default=True,
    help="Observe refuses nothing.",
)
@click.option(
    "--driver",
    "device",
    metavar="PATH",
    type=click.Path(path_type=Path, readable=False),  # who may not connect hears why
    help="Decide for the `tidewaiter driver` behind this socket, as an ordinary user.",
)
@scope_options
@click.option(
    "--quiet", is_flag=True, help="Print no events: what the kernel decides then costs user space nothing."
)
@firewall_options
@state_option
@click.pass_context
def run(
    context: click.Context,
    mode: str,
    device: Path | None,
    cgroup: Path | None,
    netns: Path | None,
    name: str,
    quiet: bool,
    policy_file: str | None,
    fail: str,
    timeout: float,
    on_timeout: str,
    held: int,
    count: bool,
    as_json: bool,
    state: Path | None,
) -> None:
    """Guard this host, or watch it.

    Each connection is a line when it is decided, and another with its totals when it ends. The policy file is read
    again when it changes, or on SIGHUP, and so are its lists; a bad one is reported and the old one stays. Ctrl-C stops
    and takes everything away. Privileges that are not needed are given away first (docs/reference/privileges.md).

    \b
    Examples:
      tidewaiter run --mode observe                       watch, refuse nothing
      tidewaiter run --policy policy.toml                 enforce a policy
      tidewaiter run --policy p.toml --cgroup /sys/fs/cgroup/user.slice
      tidewaiter run --policy p.toml --driver /run/tidewaiter/device
    """
    if device is not None:
        _refuse_options_of_the_driver(context)
    output = Output(as_json=as_json)
    missing = "" if device else missing_privileges(entering=netns is not None)
    if missing and mode == Mode.OBSERVE:
        with one_sentence():
            replay_example(missing, load_policy(policy_file), output, state_folder(state))
        return
    if missing:
        raise Failure(missing)
    with signals() as seen:  # around all of it: a stop in the middle of a step leaves nothing half done
        with one_sentence():
            followed = PolicyFile(policy_file)
            policy = followed.first()
            settings = Settings(
                name=name,
                scope=Scope.host() if device else Scope.of(cgroup, netns),
                mode=Mode(mode),
                fail=fail,
                timeout=timeout,
                on_timeout=VERDICTS[on_timeout],
                held=held,
                count=count,
                state=state_folder(state, name),
            )
            reporter = Reporter(observe=mode == Mode.OBSERVE, count=count)

            def listen(event: object) -> None:
                for line in reporter.lines(event):  # type: ignore[arg-type]
                    output.put(line)

            def tell(text: str) -> None:
                output.put(reporter.notice(text))

            def follow(one: PacketSocket) -> None:
                output.put(reporter.packet_socket(one))

            listener = None if quiet else listen
            follower = None if quiet else follow
            engine: Engine | RemoteEngine
            if device:
                engine = RemoteEngine(device, policy, settings, listener=listener, notice=tell)
                doing = f"Deciding for the driver at {device}"
            else:
                engine = Engine(policy, settings, listener=listener, notice=tell, packet_socket=follower)
                verb = "Watching" if mode == Mode.OBSERVE else "Guarding"
                doing = f"{verb} {settings.scope} as {name!r}"
                bpffs.ensure()
                drop_privileges(entering=netns is not None)
            engine.start()
        notify("READY=1", f"STATUS={doing}")
        output.put(reporter.notice(f"{doing}; Ctrl-C to stop."))
        try:
            while engine.running and not output.broken and signal.SIGTERM not in seen:
                output.wait(_LOOK)
                if followed.changed() or signal.SIGHUP in seen:
                    seen.discard(signal.SIGHUP)
                    followed.reload(engine.load, tell)
        finally:
            _stop(engine, output, reporter, quiet=quiet)
    if engine.failure is not None:
        raise Failure(f"the firewall ended by an error: {engine.failure}")


def _stop(engine: Engine | RemoteEngine, output: Output, reporter: Reporter, *, quiet: bool) -> None:
    statistics = engine.statistics() if engine.running else {}
    failures = engine.stop()
    output.flush()
    if not quiet:
        output.put(reporter.statistics(statistics))
    for failure in failures:
        output.put(reporter.notice(f"not removed: {failure}"))
    output.flush()


def _refuse_options_of_the_driver(context: click.Context) -> None:
    for name in _OF_THE_DRIVER:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"With --driver leave --{name} away: it is an option of `tidewaiter driver`."
            )
