"""The loop: what the machine brings goes to the driver, what the policy cannot say goes to whoever was asked.

One thread does all of it. It waits in one place, `Machine.wait`; everything else is quick, except your function,
during which other held packets wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import NamedTuple

from tidewaiter.driver.core import SECOND, Action, Asked, Decided, Driver, Event
from tidewaiter.host import install
from tidewaiter.host.guard import Guard
from tidewaiter.host.install import Installed
from tidewaiter.host.lookup import MachineLookup
from tidewaiter.host.machine import Machine
from tidewaiter.host.packet_sockets import PacketSockets
from tidewaiter.host.policy_maps import decide_anew
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.objects import Mode
from tidewaiter.model.connection import Connection
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.service.facts import LiveFacts
from tidewaiter.service.functions import Function, functions_of
from tidewaiter.service.judge import FIRST_BYTES, Judge
from tidewaiter.service.keeper import Keeper
from tidewaiter.service.naming import Naming
from tidewaiter.service.recheck import Recheck
from tidewaiter.service.rules import Rules
from tidewaiter.service.settings import Settings

log = logging.getLogger("tidewaiter")

_ROUND = 20_000_000
"""Nanoseconds for which held packets may put commands, time-outs and most bookkeeping off."""

_UNSETTLED = 512
"""How much bookkeeping may pile up meanwhile."""

_QUIET = 0.002
"""Seconds without a packet after which it is done."""

_TOLD = 1024
"""Programs with packet sockets that are remembered, so that each is told once."""

_PATIENCE = 30.0
"""Seconds to wait for the engine's thread."""


class Counted(NamedTuple):
    """A connection has carried more bytes since the last count."""

    connection: Connection


Listener = Callable[[Event | Counted], None]


class Engine:
    """A firewall in force from `start` to `stop`.

    ``decide`` answers at once for each connection that the policy says to ask about. Where it does not (None), ``ask``
    is told, and the answer comes through `answer`. ``listener`` hears of everything but what rules with ``log = false``
    decide; with ``tells_all`` of that too. All of them run in the engine's thread, and at last ``ended``, when the loop
    has come to its end in whatever way (see ``failure``).
    ``notice`` is told, in threads of their own, what others have done to the firewall, and who goes past it; it is
    logged besides. ``packet_socket`` hears of each packet socket when it is found, and when it has ended.
    """

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        *,
        decide: Function | None = None,
        ask: Callable[[Asked], None] | None = None,
        listener: Listener | None = None,
        ended: Callable[[], None] = lambda: None,
        notice: Callable[[str], None] | None = None,
        packet_socket: Callable[[PacketSocket], None] | None = None,
        tells_all: bool = False,
    ) -> None:
        self.settings, self._notice, self._packet_socket = settings, notice, packet_socket
        self._ask, self._listener, self._ended = ask, listener, ended
        self._tells_all, self._naming = tells_all, Naming()
        self._keeper = Keeper(settings.state, self._say, lambda: self.command(self._look_around))
        where = next(iter(settings.scope.namespaces), None)
        self._facts = LiveFacts(
            MachineLookup(self._say), where, lambda: self.command(self._arrive), self._say
        )
        self.judge = Judge(
            Rules(policy, self._keeper.use(self._keeper.read(policy)), self._facts),
            decide,
            otherwise=settings.on_timeout,
            redirects=settings.redirect is not None,
            naming=self._naming,
        )
        self._commands: deque[Callable[[], list[Action]]] = deque()
        self._stopping, self._behind = False, True
        self._next_count = self._next_round = 0
        self._recheck: Recheck | None = None
        wait = int(settings.timeout * SECOND)
        self.driver = Driver(packets=settings.held, timeout=wait, timeout_verdict=settings.on_timeout)
        self.failure: BaseException | None = None
        self._told_of: set[tuple[str | int, str]] = set()
        self._installed: Installed | None = None

    def start(self) -> None:
        """Puts the firewall into the kernel and starts the thread. Raises what `install.install` raises."""
        settings, rules = self.settings, self.judge.rules
        self._installed = install.install(
            settings.name,
            settings.scope,
            settings.mode,
            rules.policy,
            fail_open=settings.fail_open,
            events=self._listener is not None,
            count=settings.count,
            redirect=settings.redirect,
            say=self._say,
            symlinks=rules.symlinks,
        )
        try:
            with ExitStack() as undo:
                self.machine = Machine(self._installed, self.driver, quiet=self._listener is None)
                undo.callback(self.machine.close)
                self._naming.start(self._installed)
                undo.callback(self._naming.close)
                self._guard = Guard(self._installed, self._say)
                undo.callback(self._guard.stop)
                self._packet_sockets = PacketSockets(self._installed, self.driver.number, self._goes_past)
                self._facts.prepare(rules.policy)
                rules.enter()
                self.machine.interfaces.wanted = self._wants_interfaces()
                undo.pop_all()
        except BaseException:
            install.remove(self._installed)
            self._installed = None
            raise
        self._thread = threading.Thread(target=self._run, name="tidewaiter", daemon=True)
        try:
            for part in (self._thread, self._guard, self._packet_sockets, self._keeper):
                part.start()
        except BaseException:  # no more threads can be had, say
            self.stop()
            raise

    def stop(self) -> list[str]:
        """Resolves what is held as ``fail`` says, and removes everything. Returns what could not be removed."""
        if self._installed is None:
            return []
        self._keeper.stop()
        self._stopping = True
        self.machine.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._guard.stop()
        self._packet_sockets.stop()
        self._facts.close()
        self.judge.rules.close()
        self.machine.close()
        self._naming.close()
        installed, self._installed = self._installed, None
        return install.remove(installed)

    @property
    def running(self) -> bool:
        """False after `stop`, or when the thread ended by an error (see ``failure``)."""
        return self._installed is not None and self._thread.is_alive()

    @property
    def installed(self) -> bool:
        """Whether there is anything for `stop` to remove."""
        return self._installed is not None

    def answer(self, packet: int, verdict: Verdict) -> None:
        """An answer to a question, from any thread."""
        self.command(lambda: self._answer(packet, verdict))

    def load(self, policy: Policy) -> None:
        """Puts another policy in force, from any other thread; open connections are decided again by it, and those
        that it refuses are cut.

        Raises KernelError when the kernel refuses it, and then the old one stays; RuntimeError when no
        firewall is in force.
        """
        if not self.running:
            raise RuntimeError("no firewall is in force: load a policy between start and stop")
        done: Future[None] = Future()
        sources = self._keeper.read(policy)  # in this thread: reading lists may take a moment
        self._facts.prepare(policy)

        def change() -> list[Action]:
            try:
                assert self._installed is not None
                functions_of(policy)  # what is wrong with them is said before anything changes
                rules = Rules(policy, sources.world(), self._facts, self.judge.rules)
                install.replace_policy(self._installed, rules.policy)
                self._keeper.use(sources)
                self.judge.use(rules)
                self.machine.interfaces.wanted = self._wants_interfaces()
                self.machine.name_rules(self._installed.state.rules)
                self._look_again()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)
            return []

        self.command(change)
        done.result(timeout=_PATIENCE)

    def _look_again(self) -> None:
        self._behind = True
        if self._recheck is not None:
            self._recheck.close()
        if self.settings.mode is Mode.ENFORCE:
            self._recheck = Recheck(self.machine, self.judge.decision)

    def _look_around(self) -> list[Action]:
        """What the policy is looked up in has changed: everything is decided again, and what it refuses now is cut."""
        if self._installed is not None and (world := self._keeper.world()) is not None:
            self.judge.rules.look_into(world)
            self._decide_anew(self._installed)
        return []

    def _wants_interfaces(self) -> bool:
        return self._listener is not None or self._facts.names_interface

    def _arrive(self) -> list[Action]:
        """The network has changed."""
        if self._installed is not None and self._facts.arrive():
            self._decide_anew(self._installed)
        return []

    def _decide_anew(self, installed: Installed) -> None:
        try:
            decide_anew(installed.kernel)
        except KernelError as error:  # what is open is looked at all the same, and the loop goes on
            log.error("connections that are open keep their verdicts: %s", error)  # noqa: TRY400
        self._look_again()

    def logs(self, connection: Connection) -> bool:
        """Whether listeners hear of it: not where it was decided by a rule with ``log = false``."""
        return connection.rule not in self.judge.rules.silent

    def statistics(self) -> dict[str, int]:
        """What has happened so far, the driver's counters and the kernel's."""
        return self.machine.statistics() | self._guard.statistics()

    def _say(self, text: str) -> None:
        """What is told as a notice need not be printed as a warning too."""
        log.log(logging.INFO if self._notice else logging.WARNING, "%s", text)
        if self._notice is not None:
            self._notice(text)

    def _goes_past(self, one: PacketSocket) -> None:
        """In a thread of its own. The same program at the same interface is told once."""
        who = one.process.path or one.process.pid, one.interface
        if who not in self._told_of:
            if len(self._told_of) >= _TOLD:
                self._told_of.clear()
            self._told_of.add(who)
            self._say(f"{one}, which goes past this firewall: it is counted, and cannot be held")
        if self._packet_socket is not None:
            try:
                self._packet_socket(one)
            except Exception:
                log.exception("a listener failed on a packet socket")

    def _answer(self, packet: int, verdict: Verdict) -> list[Action]:
        held = self.driver.packets.get(packet)
        actions = self.driver.verdict(packet, verdict, time.monotonic_ns())
        following = self.driver.packets.first(held.flow) if held and verdict.decided else None
        connection = self.driver.find(held.flow) if held else None
        if self._ask is not None and following is not None and connection is not None:
            self._ask(Asked(connection, following, first=False, waiting=1))  # it held for one packet only
        return actions

    def command(self, command: Callable[[], list[Action]]) -> None:
        """Runs something in the engine's thread, from any thread, and carries out the actions that it returns."""
        self._commands.append(command)
        self.machine.wake()

    def _run(self) -> None:
        try:
            if self._listener is not None:
                self.machine.carry_out(self.machine.meet())
                self._dispatch()
            while not self._stopping:
                self.machine.wait(self._patience())
                self._step()
            verdict = Verdict.PERMANENT_ACCEPT if self.settings.fail_open else Verdict.PERMANENT_DROP
            self.machine.carry_out(self.driver.rundown(verdict, time.monotonic_ns()))
            self._dispatch()
        except BaseException as error:
            self.failure = error
            log.critical("the firewall's loop has ended: %s", error, exc_info=True)
        finally:
            self._ended()

    def _step(self) -> None:
        machine = self.machine
        if actions := machine.collect(self.judge):
            machine.carry_out(actions)
        self._dispatch()
        now = time.monotonic_ns()
        if machine.busy and now < self._next_round and machine.unsettled < _UNSETTLED:
            return  # the next packet may wait already, and the program that was answered for our processor
        self._next_round = now + _ROUND
        if actions := machine.settle():
            machine.carry_out(actions)
        for flow in self._naming.late():
            machine.carry_out(self._named(flow))
        if self._recheck is not None:  # after what the kernel has told: so the driver knows what it cuts
            machine.carry_out(self._recheck.work())
            self._recheck = None if self._recheck.done else self._recheck
        while self._commands:  # each is carried out before the next: a later one may tell that it is
            machine.carry_out(self._commands.popleft()())
        machine.carry_out(self.driver.tick(now))
        if ended := self.judge.rules.ended():
            machine.installed.maps.switch_off(ended)
        self._dispatch()
        self._behind = self._behind and (machine.busy or machine.installed.maps.catch_up())
        if self.settings.count_every and now >= self._next_count:
            self._next_count = now + int(self.settings.count_every * SECOND)
            self._count()

    def _dispatch(self) -> None:
        while events := self.driver.events():
            actions: list[Action] = []
            for event in events:
                if self._listener is not None or self.judge.by_name:
                    self._naming.follow(event)
                if type(event) is Asked:
                    actions += self._question(event)
            if actions:
                self.machine.carry_out(actions)
            if self._listener is not None:
                for event in events:
                    if not self._passes_unnamed(event):
                        self._tell(self._listener, event)

    def _question(self, asked: Asked) -> list[Action]:
        """A packet that is held, and was not answered for the whole connection on sight."""
        connection, number = asked.connection, asked.packet
        held = self.driver.packets.get(number)
        if held is None:  # an answer to the first packet of a connection answers for those behind it
            return []
        connection.interface = held.interface  # others that wait too may have come another way
        unnamed, judged = connection.rule == FIRST_BYTES, self.machine.judged
        if number in judged and not (unnamed and judged[number] is Verdict.UNDECIDED):
            verdict = judged[number]
        else:  # also where on sight it was to wait for its name, which is looked for under its id from now on
            verdict = self.judge(connection, held.payload)
        if verdict is not None:
            return self.driver.verdict(number, verdict, time.monotonic_ns(), rule=connection.rule)
        if self._ask is not None and (asked.waiting == 1 or unnamed):
            self._ask(asked._replace(packet=self.driver.packets.first(held.flow) or number))
        return []

    def _named(self, flow: bytes) -> list[Action]:
        """The name of a connection is settled: what waits for it is decided."""
        connection, first = self.driver.find_open(flow), self.driver.packets.first(flow)
        if connection is None or first is None or connection.rule != FIRST_BYTES:
            return []
        return self._question(Asked(connection, first, first=False, waiting=1))

    def _passes_unnamed(self, event: Event) -> bool:
        """Whether it is about a packet of the handshake, before the verdict on the connection."""
        return type(event) is Decided and event.connection.rule == FIRST_BYTES and not event.first

    def _count(self) -> None:
        moved = self.machine.count()
        if self._listener is not None:
            for connection in moved:
                self._tell(self._listener, Counted(connection))

    def _tell(self, listener: Listener, event: Event | Counted) -> None:
        try:
            if self._tells_all or self.logs(event.connection):
                listener(event)
        except Exception:
            log.exception("a listener failed on %s", type(event).__name__)

    def _patience(self) -> float:
        if self._recheck is not None or self._behind:
            return 0.0
        if self.machine.unsettled:
            return _QUIET
        deadlines = [one for one in (self.driver.deadline(), self._naming.deadline) if one is not None]
        return max(0.0, (min(deadlines) - time.monotonic_ns()) / SECOND) if deadlines else 1.0
