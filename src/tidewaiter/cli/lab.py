"""``tidewaiter lab``: run a command in a private network, under the firewall, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import VERDICTS, firewall_options
from tidewaiter.cli.output import Output
from tidewaiter.cli.watching import PolicyFile
from tidewaiter.host import state
from tidewaiter.host.privileges import missing_privileges
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab.world import LabError, World
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.policy.document import Policy
from tidewaiter.service.device import DeviceServer
from tidewaiter.service.engine import Engine
from tidewaiter.service.report import Reporter
from tidewaiter.service.settings import Settings

_SETTLE = 0.25  # seconds after the command for what its last packets bring
_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@click.command(context_settings=HELP | {"allow_interspersed_args": False})
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="enforce",
    show_default=True,
    help="Observe refuses nothing.",
)
@click.option(
    "--no-firewall", is_flag=True, help="The same world without us: the baseline of every benchmark."
)
@click.option(
    "--device",
    type=click.Path(path_type=Path),
    help="No policy: whoever connects to this socket decides (docs/reference/wire.md).",
)
@click.option("--quiet", is_flag=True, help="Print no events.")
@firewall_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def lab(
    mode: str,
    no_firewall: bool,
    device: Path | None,
    quiet: bool,
    policy_file: str | None,
    fail: str,
    timeout: float,
    on_timeout: str,
    held: int,
    count: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a private network under the firewall; exit with its status.

    The lab is a client and an "internet" network namespace with real HTTP, TLS, DNS and echo servers, by IPv4 and
    IPv6. COMMAND finds them in LAB_HTTP, LAB_TLS (URLs), LAB_DNS, LAB_TCP_ECHO, LAB_UDP_ECHO (ADDRESS:PORT), each also
    with the suffix 6. Nothing of this machine's own network is touched, and nothing is left behind. What happened is
    printed on standard error, with --json on standard output, between whole lines of COMMAND's own output. The policy
    file is read again when it changes, and so are its lists; a bad one is reported and the old one stays.

    \b
    Examples:
      tidewaiter lab -- sh -c 'curl -s $LAB_HTTP'
      tidewaiter lab --policy policy.toml --json -- sh -c 'curl -s $LAB_TLS6; dig @${LAB_DNS%:*} web.lab'
    """
    if device and (policy_file or no_firewall):
        raise click.UsageError("With --device its owner decides: leave --policy and --no-firewall away.")
    if device and Mode(mode) is Mode.OBSERVE:
        raise click.UsageError(
            "With --device its owner is asked, and observing asks nobody: leave --mode away."
        )
    missing = missing_privileges()
    if missing:
        raise Failure(f"The lab needs its own network and the live kernel. {missing}")
    for number in _STOPS:
        signal.signal(number, _interrupted)
    with one_sentence():
        followed = PolicyFile(policy_file)
        policy = followed.first()  # before a world is made
        try:
            with World() as world:
                settings = Settings(
                    name=world.name,
                    scope=Scope.of(world.cgroup, world.client_namespace),
                    mode=Mode(mode),
                    fail=fail,
                    timeout=timeout,
                    on_timeout=VERDICTS[on_timeout],
                    held=held,
                    count=count,
                    redirect=RedirectPorts() if device else None,
                )
                world.also_remove(state.PINS / world.name)
                world.also_remove(state.RUN / f"{world.name}.json")
                if no_firewall:
                    status = world.popen(command).wait()
                else:
                    output = _Shared(sys.stdout) if as_json else None
                    status = _guarded(
                        world, policy, followed, settings, command, output, device=device, quiet=quiet
                    )
        except LabError as error:
            raise Failure(str(error)) from error
    sys.exit(status if status >= 0 else 128 - status)


def _guarded(
    world: World,
    policy: Policy,
    followed: PolicyFile,
    settings: Settings,
    command: tuple[str, ...],
    shared: _Shared | None,
    *,
    device: Path | None,
    quiet: bool,
) -> int:
    output = Output(as_json=shared is not None, stream=shared or sys.stderr)
    reporter = Reporter(observe=settings.mode is Mode.OBSERVE, count=settings.count)

    def listen(event: object) -> None:
        for line in reporter.lines(event):  # type: ignore[arg-type]
            output.put(line)

    def tell(text: str) -> None:
        output.put(reporter.notice(text))

    def follow(one: PacketSocket) -> None:
        output.put(reporter.packet_socket(one))

    listener, follower = (None, None) if quiet else (listen, follow)
    guard = DeviceServer(device, settings, listener=listener) if device else None
    engine = (
        guard.engine
        if guard
        else Engine(policy, settings, listener=listener, notice=tell, packet_socket=follower)
    )

    def look() -> None:
        if guard and guard.finished.is_set():  # its owner has shut it down, or it has failed
            guard.stop()
        if followed.changed() and engine.running:
            followed.reload(engine.load, tell)

    (guard or engine).start()
    try:
        status = _run(world, command, output, shared, look)
        output.wait(_SETTLE)
        threading.Event().wait(_SETTLE)
    finally:
        statistics = engine.statistics() if engine.running else {}
        failures = (guard or engine).stop()
        if not quiet:
            output.put(reporter.statistics(statistics))
        for failure in failures:
            output.put(reporter.notice(f"not removed: {failure}"))
        output.flush()
    ended_by = engine.failure or (guard.failure if guard else None)
    if ended_by is not None:
        raise Failure(f"the firewall ended by an error: {ended_by}")
    return status


def _run(
    world: World, command: tuple[str, ...], output: Output, shared: _Shared | None, look: Callable[[], None]
) -> int:
    """The command; our lines are printed and ``look`` is called meanwhile. Without ``shared`` its output is its own."""
    process = world.popen(command, **({"stdout": subprocess.PIPE} if shared else {}))
    done = threading.Event()
    copier = threading.Thread(target=_copy, args=(process, shared, done), daemon=True)
    copier.start()
    try:
        while not done.is_set():
            output.wait(0.05)
            look()
    except BaseException:
        process.terminate()
        raise
    return process.wait()


def _copy(process: subprocess.Popen[bytes], shared: _Shared | None, done: threading.Event) -> None:
    if shared and process.stdout:
        with process.stdout as output, suppress(BrokenPipeError):  # nobody reads: the command is told as well
            while data := os.read(output.fileno(), 1 << 16):
                shared.pass_on(data)
    process.wait()
    done.set()


class _Shared:
    """Standard output for two: the command's bytes pass as they are, and a line of ours begins on its own line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream.buffer  # type: ignore[attr-defined]
        self._lock = threading.Lock()
        self._fresh = True

    def pass_on(self, data: bytes) -> None:
        """The command's own bytes."""
        with self._lock:
            self._stream.write(data)
            self._stream.flush()
            self._fresh = data.endswith(b"\n")

    def write(self, text: str) -> int:
        """One line of ours."""
        with self._lock:
            self._stream.write((text if self._fresh else "\n" + text).encode())
            self._fresh = True
        return len(text)

    def flush(self) -> None:
        """As of any stream."""
        with self._lock:
            self._stream.flush()

    def fileno(self) -> int:
        """As of any stream."""
        return int(self._stream.fileno())


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
