"""`tidewaiter run`: what it makes of its options, when it reads its policy again, and how it ends.

The engine is a fake that does, step by step, what a test wants to happen meanwhile; a few tests run the real one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result

from acceptance.harness import guard
from livelab import PATIENCE, Agent, left_of, new_name
from tidewaiter.cli import run as module
from tidewaiter.cli.options import state_folder
from tidewaiter.cli.run import run
from tidewaiter.driver.core import Decided
from tidewaiter.host import cgroup
from tidewaiter.host.hold import HoldError
from tidewaiter.host.scope import OWN_NAMESPACE, Scope
from tidewaiter.kernel import bpffs
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import ConnectionKey, Direction, parse_endpoint
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Policy
from tidewaiter.service.engine import Listener
from tidewaiter.service.settings import Settings

GOOD = 'version = 1\n[[rule]]\nname = "no echo"\nport = "7"\nverdict = "block"\n'
OTHER = "version = 1\n# another one\n"
BAD = "version = 7\n"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Step = Callable[[], object]


class Engine:
    """Runs as long as there are steps, one for each look of the command."""

    steps: ClassVar[deque[Step]]
    made: ClassVar[list[Engine]]
    failures: ClassVar[list[str]]
    refusal: ClassVar[Exception | None]

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        *,
        listener: Listener | None,
        notice: Callable[[str], None],
        packet_socket: Callable[[PacketSocket], None] | None,
    ) -> None:
        self.notice, self.packet_socket = notice, packet_socket
        self.policy, self.settings, self.listener = policy, settings, listener
        self.failure: BaseException | None = None
        self.started = self.stopped = False
        self.made.append(self)

    def start(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.started = True

    @property
    def running(self) -> bool:
        if not self.stopped and self.steps:
            self.steps.popleft()()
            return True
        return not self.stopped and self.failure is None

    def load(self, policy: Policy) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.policy = policy

    def statistics(self) -> dict[str, int]:
        return {"held": 5, "released": 0}

    def stop(self) -> list[str]:
        self.stopped = True
        return self.failures


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Engine]:
    """The fake, all privileges, and a hierarchy of control groups that is only files."""

    fresh: dict[str, object] = {"steps": deque(), "made": [], "failures": [], "refusal": None}
    for name, value in fresh.items():
        monkeypatch.setattr(Engine, name, value, raising=False)
    monkeypatch.setattr(module, "Engine", Engine)
    monkeypatch.setattr(module, "_LOOK", 0.001)
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "")
    monkeypatch.setattr(module, "drop_privileges", lambda **_: None)  # of this process, which goes on
    monkeypatch.setattr(bpffs, "ensure", lambda: None)
    monkeypatch.setenv("COLUMNS", "300")
    group = tmp_path / "cgroup"
    (group / "user.slice").mkdir(parents=True)
    for path in (group, group / "user.slice"):
        (path / "cgroup.procs").touch()
    monkeypatch.setattr(cgroup, "root", lambda: group)
    return Engine


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    return path


def tell(number: signal.Signals) -> Step:
    return lambda: os.kill(os.getpid(), number)


def nothing() -> None:
    """A look at which nothing has happened."""


def invoke(engine: type[Engine], *arguments: str | Path, steps: tuple[Step, ...] = ()) -> Result:
    """Runs the command through the steps; then it is told to stop."""
    engine.steps.extend([*steps, tell(signal.SIGTERM)])
    before = [signal.getsignal(number) for number in SIGNALS]
    result = CliRunner().invoke(run, [str(argument) for argument in arguments])
    assert [signal.getsignal(number) for number in SIGNALS] == before
    return result


def notices(result: Result) -> list[str]:
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [line["text"] for line in lines if line["event"] == "notice"]


# --- options


def test_without_options_it_guards_the_host(engine: type[Engine]) -> None:
    result = invoke(engine)
    assert (result.exit_code, result.stderr) == (0, "")
    first, last = (line[9:] for line in result.stdout.splitlines())
    assert (first, last) == ("Guarding every program as 'host'; Ctrl-C to stop.", "held 5")
    (made,) = engine.made
    assert made.settings == Settings(scope=Scope.host(), state=state_folder())
    assert made.policy.rules == ()
    assert made.stopped


def test_what_the_options_mean(engine: type[Engine], policy: Path, tmp_path: Path) -> None:
    group, namespace = tmp_path / "cgroup" / "user.slice", tmp_path / "netns"
    namespace.symlink_to(OWN_NAMESPACE)
    given = ["--mode", "observe", "--cgroup", str(group), "--netns", str(namespace), "--name", "lab"]
    more = ["--policy", str(policy), "--fail", "open", "--timeout", "2.5", "--on-timeout", "drop", "--json"]
    result = invoke(engine, *given, *more, "--state", str(tmp_path / "state"))
    assert result.exit_code == 0
    assert notices(result) == [f"Watching programs in {group} in {namespace} as 'lab'; Ctrl-C to stop."]
    (made,) = engine.made
    assert made.settings == Settings(
        name="lab",
        scope=Scope(group, (namespace,)),
        mode=Mode.OBSERVE,
        fail="open",
        timeout=2.5,
        on_timeout=Verdict.PERMANENT_DROP,
        state=tmp_path / "state",
    )
    assert [rule.name for rule in made.policy.rules] == ["no echo"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--mode", "watch"], 2, "'watch' is not one of 'observe', 'enforce'."),
        (["--timeout", "0"], 2, "0.0 is not in the range 0.01<=x<=3600."),
        (["extra"], 2, "Got unexpected extra argument (extra)"),
        (["--cgroup", "/no/such/group"], 1, "Error: /no/such/group is no control group; see "),
        (["--netns", "/no/such/ns"], 1, "Error: /no/such/ns is no network namespace; see `ip netns list`"),
        (["--policy", "/no/such/file"], 2, "Error: /no/such/file:1:1: the file cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(
    engine: type[Engine], arguments: list[str], status: int, said: str
) -> None:
    result = invoke(engine, *arguments)
    assert (result.exit_code, result.stdout, engine.made) == (status, "", [])
    assert said in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (HoldError("hold rules cannot be installed"), "hold rules cannot be installed"),
        (KernelError(errno.EPERM, "loading: refused"), "loading: refused"),
    ],
)
def test_what_cannot_be_started(engine: type[Engine], refusal: Exception, said: str) -> None:
    engine.refusal = refusal
    result = invoke(engine)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {said}\n")


# --- without privileges


def test_without_privileges_nothing_is_guarded(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "This process lacks CAP_BPF.")
    result = invoke(engine)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: This process lacks CAP_BPF.\n"
    assert engine.made == []


def test_without_privileges_observe_is_a_replay(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "This process lacks CAP_BPF.")
    result = invoke(engine, "--mode", "observe", "--policy", policy, "--json")
    assert result.exit_code == 0
    assert notices(result)[0] == "This process lacks CAP_BPF."
    assert "replay" in notices(result)[1]
    assert engine.made == []


def test_a_replay_of_a_bad_policy(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.setattr(module, "missing_privileges", lambda **_: "This process lacks CAP_BPF.")
    policy.write_text(BAD)
    result = invoke(engine, "--mode", "observe", "--policy", policy)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {policy}:1:11: ")


# --- events


def happen(engine: type[Engine], verdict: Verdict = Verdict.PERMANENT_BLOCK) -> Step:
    def step() -> None:
        local, remote = parse_endpoint("192.0.2.1:4000"), parse_endpoint("[2001:db8::1]:443")
        key = ConnectionKey(6, remote[0], local[1], *remote)
        process = Process(pid=7, path="/usr/bin/curl")
        connection = Connection(1, key, Direction.OUT, process, verdict, "no web", Tier.KERNEL, opened=1)
        listener = engine.made[0].listener
        assert listener is not None
        listener(Decided(connection, 0, True))

    return step


def test_what_the_guard_says_is_a_notice(engine: type[Engine]) -> None:
    text = "the hold rules were gone; they are put back"
    result = invoke(engine, "--json", steps=(lambda: engine.made[-1].notice(text),))
    assert notices(result)[1:] == [text]


def test_packet_sockets_are_lines(engine: type[Engine]) -> None:
    arping = PacketSocket(
        4, Process(pid=7, path="/usr/sbin/arping"), "eth0", 1, ended=2, sent=42, received=60
    )

    def happens() -> None:
        follow = engine.made[-1].packet_socket
        assert follow is not None
        follow(arping)

    result = invoke(engine, steps=(happens,))
    assert result.stdout.splitlines()[1][9:] == "end      arping (7) → eth0 packet  ↑42 B ↓60 B in 0.00 s"


def test_events_are_lines(engine: type[Engine]) -> None:
    result = invoke(engine, steps=(happen(engine),))
    row = result.stdout.splitlines()[1]
    assert row[9:] == "block    curl (7) → [2001:db8::1]:443 tcp  no web · kernel"
    engine.made.clear()
    result = invoke(engine, "--json", steps=(happen(engine),))
    kinds = [json.loads(line)["event"] for line in result.stdout.splitlines()]
    assert kinds == ["notice", "connection", "verdict", "stats"]


@pytest.mark.parametrize(("mode", "word"), [("observe", "ask"), ("enforce", "undecided")])
def test_what_would_be_asked(engine: type[Engine], mode: str, word: str) -> None:
    result = invoke(engine, "--json", "--mode", mode, steps=(happen(engine, Verdict.UNDECIDED),))
    verdict = json.loads(result.stdout.splitlines()[2])
    assert (verdict["event"], verdict["verdict"]) == ("verdict", word)


def test_quiet(engine: type[Engine]) -> None:
    result = invoke(engine, "--quiet", "--json")
    assert engine.made[0].listener is None
    assert engine.made[0].packet_socket is None
    assert notices(result) == ["Guarding every program as 'host'; Ctrl-C to stop."]
    assert len(result.stdout.splitlines()) == 1


# --- the policy file


def test_a_changed_policy_is_read_again(engine: type[Engine], policy: Path) -> None:
    result = invoke(engine, "--json", "--policy", policy, steps=(lambda: policy.write_text(OTHER), nothing))
    assert notices(result)[1:] == [f"{policy} is in force"]
    assert engine.made[0].policy.rules == ()


def test_a_policy_that_changes_while_we_start_is_read_again(engine: type[Engine], policy: Path) -> None:
    class Slow(Engine):
        def start(self) -> None:
            policy.write_text(OTHER)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "start", Slow.start)
        result = invoke(engine, "--json", "--policy", policy, steps=(nothing,))
    assert notices(result)[1:] == [f"{policy} is in force"]


def test_an_editor_that_renames(engine: type[Engine], policy: Path) -> None:
    new = policy.with_suffix(".new")
    new.write_text(OTHER)
    steps = (policy.unlink, nothing, lambda: new.rename(policy), nothing)
    result = invoke(engine, "--json", "--policy", policy, steps=steps)
    assert notices(result)[1:] == [f"{policy} is in force"]


@pytest.mark.parametrize("path", ["policy.toml", None])
def test_without_a_change_nothing_is_read(engine: type[Engine], policy: Path, path: str | None) -> None:
    options = ["--policy", str(policy)] if path else []
    result = invoke(engine, "--json", *options, steps=(nothing,) * 5)
    assert len(notices(result)) == 1


def test_sighup_reads_it_again(engine: type[Engine], policy: Path) -> None:
    steps = (tell(signal.SIGHUP), nothing, nothing)
    result = invoke(engine, "--json", "--policy", policy, steps=steps)
    assert notices(result)[1:] == [f"{policy} is in force"]


def test_sighup_without_a_policy(engine: type[Engine]) -> None:
    result = invoke(engine, "--json", steps=(tell(signal.SIGHUP), nothing))
    assert (result.exit_code, len(notices(result))) == (0, 1)


def test_a_bad_policy_is_reported_and_the_old_one_stays(engine: type[Engine], policy: Path) -> None:
    steps = (lambda: policy.write_text(BAD), nothing, nothing)
    result = invoke(engine, "--json", "--policy", policy, steps=steps)
    assert result.exit_code == 0
    (_, notice) = notices(result)
    assert notice.startswith(f"{policy}:1:11: ")
    assert notice.endswith("; the policy in force stays")
    assert [rule.name for rule in engine.made[0].policy.rules] == ["no echo"]


def test_a_policy_that_the_kernel_refuses(engine: type[Engine], policy: Path) -> None:
    def refuse() -> None:
        engine.refusal = KernelError(errno.ENOMEM, "writing rules: out of memory")

    result = invoke(engine, "--json", "--policy", policy, steps=(refuse, tell(signal.SIGHUP), nothing))
    assert result.exit_code == 0
    assert notices(result)[1:] == [f"{policy}: writing rules: out of memory; the policy in force stays"]


# --- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_when_told(engine: type[Engine], number: signal.Signals) -> None:
    result = invoke(engine, steps=(nothing, tell(number), *[nothing] * 9))
    assert result.exit_code == 0
    assert len(engine.steps) >= 9  # it did not look again
    assert engine.made[0].stopped


def test_told_to_stop_while_it_starts(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "start", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    result = invoke(engine)
    assert result.exit_code == 0
    assert engine.made[0].stopped


def test_told_again_while_it_stops(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """An impatient second Ctrl-C leaves nothing half removed."""

    def stop(self: Engine) -> list[str]:
        os.kill(os.getpid(), signal.SIGINT)
        self.stopped = True
        return []

    monkeypatch.setattr(engine, "stop", stop)
    result = invoke(engine)
    assert result.exit_code == 0
    assert engine.made[0].stopped


def test_what_could_not_be_removed_is_said(engine: type[Engine]) -> None:
    engine.failures = ["rule 1 stays", "rule 2 stays"]
    result = invoke(engine, "--json")
    assert notices(result)[1:] == ["not removed: rule 1 stays", "not removed: rule 2 stays"]
    assert json.loads(result.stdout.splitlines()[1])["event"] == "stats"


def test_a_firewall_that_ends_by_an_error(engine: type[Engine]) -> None:
    def fail() -> None:
        engine.made[0].failure = RuntimeError("the queue is gone")
        engine.steps.clear()

    result = invoke(engine, steps=(fail,))
    assert result.exit_code == 1
    assert result.stderr == "Error: the firewall ended by an error: the queue is gone\n"
    assert engine.made[0].stopped


def test_a_reader_that_goes_away_ends_it(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("tidewaiter.cli.output.Output._print", breaks)
    result = invoke(engine, steps=(nothing,) * 9)
    assert result.exit_code == 0
    assert len(engine.steps) >= 7
    assert engine.made[0].stopped


# --- with the driver in another process


@pytest.mark.parametrize(
    "given", [["--mode", "enforce"], ["--cgroup", "x"], ["--netns", "x"], ["--name", "x"], ["--fail", "open"]]
)
def test_options_of_the_driver_are_left_to_it(engine: type[Engine], given: list[str]) -> None:
    result = invoke(engine, "--driver", "/tmp/device", *given)
    assert result.exit_code == 2
    assert f"With --driver leave {given[0]} away" in result.stderr


def test_a_driver_that_is_not_there(engine: type[Engine], tmp_path: Path) -> None:
    result = invoke(engine, "--driver", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: no driver serves {tmp_path / 'none'}: start one with `tidewaiter driver`\n"
    )


# --- on the live kernel


@pytest.fixture
def name(world: World) -> str:
    return new_name(world)


def options(world: World) -> list[str]:
    return ["--cgroup", str(world.cgroup), "--netns", str(world.client_namespace)]


@pytest.mark.live
def test_observe_refuses_nothing_and_says_what_it_would(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(GOOD + '[[rule]]\nname = "web?"\nport = "80"\nverdict = "ask"\n')
    with guard(world, name, "--mode", "observe", "--policy", policy) as firewall:
        assert firewall.notices()[0].startswith(f"Watching programs in {world.cgroup} ")
        made = agent.do("tcp", (plan.ECHO.v4, 7), say="hello")
        assert (made.error, made.heard) == (None, "hello")
        assert agent.do("tcp", (plan.WEB.v6, 80)).error is None
        echo = firewall.wait_for(event="verdict", remote=f"{plan.ECHO.v4}:7")
        assert (echo["verdict"], echo["rule"], echo["tier"]) == ("block", "no echo", "kernel")
        web = firewall.wait_for(event="verdict", remote=f"[{plan.WEB.v6}]:80")
        assert (web["verdict"], web["rule"]) == ("ask", "web?")
        firewall.stop()
    assert left_of(world, name) == []
    stats = firewall.about(event="stats")[0]
    assert stats["held"] == 0


@pytest.mark.live
@pytest.mark.parametrize("wait", [0.25, 0.35, 0.5])
def test_stopped_while_it_starts_it_leaves_nothing(world: World, name: str, wait: float) -> None:
    command = [sys.executable, "-m", "tidewaiter", "run", "--json", "--name", name, *options(world)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(wait)
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGTERM)  # the latter before it has begun
    assert errors == ""
    assert left_of(world, name) == []


@pytest.mark.live
def test_a_reader_that_goes_away_ends_a_live_one(world: World, agent: Agent, name: str) -> None:
    command = [sys.executable, "-m", "tidewaiter", "run", "--name", name, *options(world)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "Guarding" in process.stdout.readline()
        process.stdout.close()
        for _ in range(3):
            agent.do("tcp", (plan.ECHO.v4, 7), say="x")
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    assert left_of(world, name) == []
