"""``tidewaiter run``: guard this host, a control group or a network namespace, until told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import VERDICTS, firewall_options, load_policy, scope_options
from tidewaiter.cli.output import Output
from tidewaiter.cli.replayed import replay_example
from tidewaiter.host.privileges import missing_privileges
from tidewaiter.host.scope import Scope
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.objects import Mode
from tidewaiter.policy.document import Policy, PolicyError
from tidewaiter.service.engine import Engine, Settings
from tidewaiter.service.report import Reporter

_LOOK = 0.5  # seconds between two looks at the policy file


@click.command(context_settings=HELP)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="enforce",
    show_default=True,
    help="Observe refuses nothing.",
)
@scope_options
@click.option(
    "--quiet", is_flag=True, help="Print no events: what the kernel decides then costs user space nothing."
)
@firewall_options
def run(
    mode: str,
    cgroup: Path | None,
    netns: Path | None,
    name: str,
    quiet: bool,
    policy_file: str | None,
    fail: str,
    timeout: float,
    on_timeout: str,
    held: int,
    as_json: bool,
) -> None:
    """Guard this host, or watch it.

    Each connection is a line when it is decided, and another with its totals when it ends. The policy file is read
    again when it changes, or on SIGHUP; a bad one is reported and the old one stays. Ctrl-C stops and takes
    everything away.

    \b
    Examples:
      tidewaiter run --mode observe                       watch, refuse nothing
      tidewaiter run --policy policy.toml                 enforce a policy
      tidewaiter run --policy p.toml --cgroup /sys/fs/cgroup/user.slice
    """
    output = Output(as_json=as_json)
    missing = missing_privileges()
    if missing and mode == Mode.OBSERVE:
        with one_sentence():
            replay_example(missing, load_policy(policy_file), output)
        return
    if missing:
        raise Failure(missing)
    with _signals() as signals:  # around all of it: a stop in the middle of a step leaves nothing half done
        with one_sentence():
            changed = _changes(policy_file)
            next(changed)  # what changes while we start counts
            policy = load_policy(policy_file)
            settings = Settings(
                name=name,
                scope=Scope.of(cgroup, netns),
                mode=Mode(mode),
                fail_open=fail == "open",
                timeout=timeout,
                on_timeout=VERDICTS[on_timeout],
                held=held,
            )
            reporter = Reporter(observe=mode == Mode.OBSERVE)

            def listen(event: object) -> None:
                for line in reporter.lines(event):  # type: ignore[arg-type]
                    output.put(line)

            def tell(text: str) -> None:
                output.put(reporter.notice(text))

            engine = Engine(policy, settings, listener=None if quiet else listen, notice=tell)
            engine.start()
        verb = "Watching" if mode == Mode.OBSERVE else "Guarding"
        output.put(reporter.notice(f"{verb} {settings.scope} as {name!r}; Ctrl-C to stop."))
        try:
            while engine.running and not output.broken and signal.SIGTERM not in signals:
                output.wait(_LOOK)
                if next(changed) or signal.SIGHUP in signals:
                    signals.discard(signal.SIGHUP)
                    _reload(engine, output, reporter, policy_file)
        finally:
            _stop(engine, output, reporter, quiet=quiet)
    if engine.failure is not None:
        raise Failure(f"the firewall ended by an error: {engine.failure}")


def _stop(engine: Engine, output: Output, reporter: Reporter, *, quiet: bool) -> None:
    statistics = engine.statistics() if engine.running else {}
    failures = engine.stop()
    output.flush()
    if not quiet:
        output.put(reporter.statistics(statistics))
    for failure in failures:
        output.put(reporter.notice(f"not removed: {failure}"))
    output.flush()


def _reload(engine: Engine, output: Output, reporter: Reporter, policy_file: str | None) -> None:
    if policy_file is None:
        return
    try:
        policy: Policy = Policy.load(policy_file)
    except PolicyError as error:
        output.put(reporter.notice(f"{error}; the policy in force stays"))
        return
    try:
        engine.load(policy)
    except KernelError as error:
        output.put(reporter.notice(f"{policy_file}: {error.strerror}; the policy in force stays"))
        return
    output.put(reporter.notice(f"{policy_file} is in force"))


def _changes(path: str | None) -> Iterator[bool]:
    """Whether a file has changed since the last call; never for None."""

    def stamp() -> tuple[int, int, int] | None:
        try:
            found = os.stat(path) if path else None  # noqa: PTH116
        except OSError:
            return None  # between two versions, for an editor that renames
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None

    last = stamp()
    while True:
        now = stamp()
        yield now is not None and now != last
        last = now or last


@contextmanager
def _signals() -> Iterator[set[int]]:
    """The signals that have come: SIGINT and SIGTERM both as SIGTERM, and SIGHUP."""
    seen: set[int] = set()
    stops = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGHUP}
    before = {
        number: signal.signal(number, lambda n, _: seen.add(stops[signal.Signals(n)])) for number in stops
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
