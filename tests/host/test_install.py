"""host/install.py: a firewall is there or it is not, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from livelab import HOLDS, Agent, holds_in, left_of, new_name, new_pins, rules_in, scope_of
from tidewaiter.host import adopt, hold, install, namespace, state
from tidewaiter.host.install import FIRST_QUEUE, Installed
from tidewaiter.host.queue import Queue, QueueError
from tidewaiter.host.scope import Scope
from tidewaiter.host.state import State, StateError
from tidewaiter.kernel import loader
from tidewaiter.kernel.links import standing
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Policy, Rule

ASK = Policy(defaults={Direction.OUT: Answer.ASK})
BLOCK_WEB = Policy(
    (Rule(name="no web", answer=Answer.BLOCK, remote=(ip_network(plan.WEB.v4), ip_network(plan.WEB.v6))),)
)
WEB, ECHO = (plan.WEB.v4, 80), (plan.ECHO.v4, 7)


@pytest.fixture
def world() -> Iterator[World]:
    """A world for each test: one that leaves something behind must not spoil the next."""
    with World() as world:
        yield world


@pytest.fixture
def name(world: World) -> Iterator[str]:
    """A name, of which nothing may be left."""
    name = new_name(world)
    yield name
    assert left_of(world, name) == []


def start(
    world: World,
    name: str,
    policy: Policy = BLOCK_WEB,
    *,
    mode: Mode = Mode.ENFORCE,
    fail_open: bool = False,
    scope: Scope | None = None,
    say: Callable[[str], object] = print,
) -> Installed:
    place = scope or scope_of(world)
    return install.install(name, place, mode, policy, fail_open=fail_open, events=False, say=say)


def abandon(installed: Installed) -> State:
    """What a crash leaves: everything in force, and a process in the state that is gone."""
    install.leave(installed)
    left = replace(installed.state, pid=0x7FFFFFF)
    left.save()
    return left


def epoch(installed: Installed) -> int:
    found = installed.kernel.map("config").read(value=0)
    assert found is not None
    return int(found["epoch"])


@pytest.mark.live
def test_a_firewall_comes_and_goes_and_leaves_nothing(world: World, name: str, agent: Agent) -> None:
    installed = start(world, name)
    try:
        assert not installed.taken_over
        assert installed.state.complete
        assert state.load(name) == installed.state
        assert len(installed.queues) == 1
        assert len(holds_in(world.client_namespace)) == HOLDS
        assert agent.do("tcp", WEB).error == "PermissionError"
        assert agent.do("tcp", ECHO, say="x").error is None
    finally:
        assert install.remove(installed) == []
    assert agent.do("tcp", WEB).error is None


@pytest.mark.live
def test_observing_holds_and_refuses_nothing(world: World, name: str, agent: Agent) -> None:
    installed = start(world, name, mode=Mode.OBSERVE)
    try:
        assert installed.queues == []
        assert rules_in(world.client_namespace) == []
        assert agent.do("tcp", WEB).error is None
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
def test_every_namespace_has_its_queue_and_its_number(world: World, name: str) -> None:
    both = Scope(world.cgroup, (world.client_namespace, world.server_namespace))
    installed = start(world, name, scope=both)
    try:
        assert [rules.where for rules, _ in installed.state.hold_rules()] == list(both.namespaces)
        assert len(holds_in(world.client_namespace)) == len(holds_in(world.server_namespace)) == HOLDS
        numbers = {bytes(key): bytes(value) for key, value in installed.kernel.map("namespaces").items()}
        assert numbers == {
            namespace.cookie(where).to_bytes(8, "little"): number.to_bytes(4, "little")
            for number, where in enumerate(both.namespaces, start=1)
        }
    finally:
        assert install.remove(installed) == []
    assert rules_in(world.server_namespace) == []


# --- when a step fails -----------------------------------------------------------------------------


class StepFailedError(Exception):
    """What a step raises in these tests."""


STEPS = {
    "load": (Kernel, "load"),
    "pin": (loader, "_load_layer"),
    "config": (install, "set_config"),
    "identify": (Kernel, "identify"),
    "cookie": (namespace, "cookie"),
    "policy": (install, "load_policy"),
    "adopt": (install, "adopt_open_sockets"),
    "hold programs": (Kernel, "pin_hold"),
    "queue": (install, "_free_queue"),
    "hold rules": (hold, "install"),
    "attach": (Kernel, "attach"),
}


@pytest.fixture(params=[*STEPS, "second adopt", "half of the hold rules", "last link"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One step of installing fails."""
    step: str = request.param

    def fails(*_: object, **__: object) -> None:
        raise StepFailedError(step)

    match step:
        case "second adopt":
            calls: list[object] = []

            def second(*arguments: object) -> int:
                calls.append(arguments)
                if len(calls) > 1:
                    fails()
                return adopt.adopt_open_sockets(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(install, "adopt_open_sockets", second)
        case "half of the hold rules":
            run = hold._run

            def half(where: Path | None, command: list[str], text: str = "") -> tuple[int, str, str]:
                if command[0].startswith("ip6tables") and "-I " in text:
                    fails()
                return run(where, command, text)

            monkeypatch.setattr(hold, "_run", half)
        case "last link":
            attach = Kernel.attach

            def late(kernel: Kernel, cgroup: Path) -> None:
                attach(kernel, cgroup)
                fails()

            monkeypatch.setattr(Kernel, "attach", late)
        case _:
            owner, function = STEPS[step]
            monkeypatch.setattr(owner, function, fails)
    return step


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.live
def test_when_a_step_fails_nothing_is_left(world: World, name: str, failing: str) -> None:
    """portmaster-kext §2."""
    before = descriptors()
    with pytest.raises(StepFailedError, match=failing):
        start(world, name)
    assert left_of(world, name) == []
    assert descriptors() == before


@pytest.mark.live
def test_when_a_step_fails_what_was_there_goes_on(
    world: World, agent: Agent, name: str, request: pytest.FixtureRequest
) -> None:
    left = abandon(start(world, name))
    request.getfixturevalue("failing_once")
    with pytest.raises(StepFailedError):
        start(world, name, fail_open=True)
    assert state.load(name) == left
    assert len(holds_in(world.client_namespace)) == HOLDS
    assert agent.do("tcp", WEB).error == "PermissionError"
    assert install.clean_up(name) == []


@pytest.fixture
def failing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StepFailedError("attach")

    monkeypatch.setattr(Kernel, "attach", fails)


@pytest.mark.live
def test_a_queue_that_another_program_has_is_passed_over(world: World, name: str) -> None:
    with ExitStack() as stack:
        for number in (FIRST_QUEUE, FIRST_QUEUE + 1):
            stack.callback(Queue(world.client_namespace, 1, number).close)
        installed = start(world, name)
        assert installed.queues[0].number == FIRST_QUEUE + 2
        assert install.remove(installed) == []


@pytest.mark.live
def test_a_queue_that_is_taken_meanwhile_is_waited_for(world: World, name: str) -> None:
    """What a killed firewall left goes on with its rules: they lead to one queue, and no other."""
    abandon(start(world, name))
    taken = Queue(world.client_namespace, 1, install.FIRST_QUEUE)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        threading.Timer(0.3, taken.close).start()

    installed = start(world, name, say=say)
    try:
        assert installed.taken_over
        assert len(said) == 1
        assert said[0].startswith(f"queue {install.FIRST_QUEUE} belongs to ")
        assert said[0].endswith(": waiting until it is free")
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
def test_a_queue_that_stays_taken_is_an_error(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "QUEUE_PATIENCE", 0.3)
    abandon(start(world, name))
    taken = Queue(world.client_namespace, 1, install.FIRST_QUEUE)
    said: list[str] = []
    try:
        with pytest.raises(QueueError, match="another program has it"):
            start(world, name, say=said.append)
    finally:
        taken.close()
    assert len(said) == 1
    assert install.clean_up(name) == []


@pytest.mark.live
@pytest.mark.parametrize("how", ["detached", "unpinned"])
def test_what_is_not_attached_any_more_is_not_taken_over(world: World, name: str, how: str) -> None:
    old = abandon(start(world, name))
    pin = old.pins / "links" / "tw_egress"
    if how == "detached":
        subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)
    else:
        pin.unlink()
    installed = start(world, name)
    try:
        assert not installed.taken_over
        assert standing(installed.kernel.pins)
        assert not old.pins.exists()
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
def test_when_every_queue_is_taken_it_says_so(world: World, name: str) -> None:
    with ExitStack() as stack:
        for number in range(FIRST_QUEUE, FIRST_QUEUE + 16):
            stack.callback(Queue(world.client_namespace, 1, number).close)
        with pytest.raises(QueueError, match=r"cannot be used .* another program has it"):
            start(world, name)


@pytest.mark.live
@pytest.mark.parametrize("bad", ["", "a/b", "../x"])
def test_a_name_that_cannot_be(world: World, bad: str) -> None:
    with pytest.raises(StateError, match="cannot name a firewall"):
        start(world, bad)


# --- after a crash ---------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, time
from ipaddress import ip_network
from pathlib import Path
from tidewaiter.host import hold, install
from tidewaiter.host.scope import Scope
from tidewaiter.host.state import State
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.policy import Answer, Policy, Rule

name, group, namespace, address, moment = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def dying(function):
    def run(*arguments):
        function(*arguments)
        die()
    return run
match moment:
    case "loading":
        Kernel.identify = die
    case "holding":
        run = hold._run
        def some(where, command, text=""):
            return run(where, command, text) if command[0].startswith("iptables") else die()
        hold._run = some
    case "held":
        hold.put_back = dying(hold.put_back)
    case "attaching":
        Kernel.attach = die
    case "attached":
        Kernel.attach = dying(Kernel.attach)
policy = Policy((Rule(name="no web", answer=Answer.BLOCK, remote=(ip_network(address),)),))
install.install(name, Scope(Path(group), (Path(namespace),)), Mode.ENFORCE, policy, fail_open=False, events=False)
print("there", flush=True)
time.sleep(100)
"""
MOMENTS = ["loading", "holding", "held", "attaching", "attached"]


class Victim:
    """A process with a firewall. Its command line says nothing of us: nothing may depend on that."""

    def __init__(self, world: World, name: str, folder: Path, moment: str = "never") -> None:
        script = folder / "program.py"
        script.write_text(SCRIPT)
        arguments = [name, str(world.cgroup), str(world.client_namespace), plan.WEB.v4, moment]
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.installed = output.readline() == "there\n"

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait(10) == -signal.SIGKILL


@pytest.mark.live
def test_what_a_killed_process_left_is_in_force_and_taken_over(
    world: World, name: str, agent: Agent, tmp_path: Path
) -> None:
    victim = Victim(world, name, tmp_path)
    with pytest.raises(StateError, match=f"{name}' already runs as process {victim.pid}; stop it first"):
        start(world, name)
    with pytest.raises(StateError, match=f"runs as process {victim.pid}: stop it instead"):
        install.clean_up(name)
    victim.kill()
    assert agent.do("tcp", WEB).error == "PermissionError"
    installed = start(
        world, name, Policy((Rule(name="no web", answer=Answer.BLOCK, remote=(ip_network(WEB[0]),)),))
    )
    try:
        assert installed.taken_over
        assert installed.state.serial == 1
        assert installed.state.pid == os.getpid()
        assert state.load(name) == installed.state
        assert epoch(installed) == 2
        assert len(holds_in(world.client_namespace)) == HOLDS
        assert agent.do("tcp", WEB).error == "PermissionError"
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_killed_half_way_is_cleaned_up(world: World, name: str, tmp_path: Path, moment: str) -> None:
    victim = Victim(world, name, tmp_path, moment)
    victim.kill()
    assert not victim.installed
    assert left_of(world, name)
    assert install.clean_up(name) == []


@pytest.mark.live
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_killed_half_way_is_never_taken_over(
    world: World, name: str, agent: Agent, tmp_path: Path, moment: str
) -> None:
    Victim(world, name, tmp_path, moment).kill()
    installed = start(world, name)
    try:
        assert not installed.taken_over
        assert len(holds_in(world.client_namespace)) == HOLDS
        assert agent.do("tcp", WEB).error == "PermissionError"
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_it_replaces_another_it_is_cleaned_up(
    world: World, name: str, tmp_path: Path, moment: str
) -> None:
    abandon(start(world, name, fail_open=True))
    Victim(world, name, tmp_path, moment).kill()
    assert install.clean_up(name) == []


@pytest.mark.live
@pytest.mark.parametrize(
    "change", [{"fail_open": True}, {"mode": Mode.OBSERVE}, {"scope": "both"}], ids=["fail", "mode", "scope"]
)
def test_other_settings_make_a_new_generation(world: World, name: str, change: dict[str, object]) -> None:
    old = abandon(start(world, name))
    if "scope" in change:
        change = {"scope": Scope(world.cgroup, (world.client_namespace, world.server_namespace))}
    installed = start(world, name, **change)  # type: ignore[arg-type]
    try:
        assert not installed.taken_over
        assert installed.state.serial == old.serial + 1
        assert not old.pins.exists()
        assert installed.state.pins.is_dir()
        expected = 0 if change.get("mode") else HOLDS
        assert len(holds_in(world.client_namespace)) == expected
        assert state.load(name) == installed.state
    finally:
        assert install.remove(installed) == []


@pytest.mark.live
def test_another_build_is_not_taken_over(world: World, name: str) -> None:
    old = abandon(start(world, name))
    replace(old, build="0" * 16).save()
    installed = start(world, name)
    assert not installed.taken_over
    assert install.remove(installed) == []


@pytest.mark.live
def test_one_name_is_one_firewall_even_within_a_process(world: World, name: str, agent: Agent) -> None:
    first = start(world, name)
    try:
        with pytest.raises(StateError, match="already runs as process"):
            start(world, name, fail_open=True)
        assert agent.do("tcp", WEB).error == "PermissionError"
    finally:
        assert install.remove(first) == []


@pytest.mark.live
def test_two_firewalls_stand_side_by_side(world: World, name: str, agent: Agent) -> None:
    other = new_name(world)
    first, second = start(world, name, Policy()), start(world, other)
    assert first.queues[0].number != second.queues[0].number
    assert agent.do("tcp", WEB).error == "PermissionError"
    assert install.remove(second) == []
    assert agent.do("tcp", WEB).error is None
    assert install.remove(first) == []
    assert left_of(world, other) == []


@pytest.mark.live
def test_a_take_over_that_fails_leaves_it_in_force(
    world: World, name: str, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = abandon(start(world, name))

    def fails(*_: object) -> None:
        raise StepFailedError("policy")

    before = descriptors()
    monkeypatch.setattr(install, "load_policy", fails)
    with pytest.raises(StepFailedError):
        start(world, name)
    monkeypatch.undo()
    assert descriptors() == before
    assert state.load(name) == left
    assert agent.do("tcp", WEB).error == "PermissionError"
    assert install.clean_up(name) == []


@pytest.mark.live
def test_cleaning_up_where_nothing_is(name: str) -> None:
    assert install.clean_up(name) == []


@pytest.mark.live
def test_pins_without_a_state_are_cleaned_up() -> None:
    path = new_pins()
    (path / "1" / "links").mkdir(parents=True)
    assert path.name in state.names()
    assert install.clean_up(path.name) == []
    assert not path.exists()


@pytest.mark.live
def test_a_namespace_that_is_gone_is_no_failure(world: World, name: str) -> None:
    with World() as other:
        scope = Scope(world.cgroup, (other.client_namespace,))
        abandon(start(world, name, scope=scope))
    assert install.clean_up(name) == []


@pytest.mark.live
def test_rules_that_somebody_else_removed_are_no_failure(world: World, name: str) -> None:
    installed = start(world, name)
    for rules, method in installed.state.hold_rules():
        assert hold.remove(rules, method) == []
    assert install.remove(installed) == []
