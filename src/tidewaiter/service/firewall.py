"""The Python face: a firewall as a context manager, with asyncio or without.

With asyncio, connections come one by one and each is held until you answer::

    async with Firewall() as firewall:
        async for connection in firewall.connections():
            await connection.accept()

Without, a function answers, in the firewall's own thread::

    with Firewall(decide=lambda connection: Verdict.PERMANENT_ACCEPT) as firewall:
        firewall.wait()

Which connections you are asked about is the policy's choice; without a policy it is every one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from tidewaiter.driver.core import Asked, Event
from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer
from tidewaiter.service.engine import Counted, Engine, Listener
from tidewaiter.service.judge import NO_REDIRECT
from tidewaiter.service.settings import Settings
from tidewaiter.service.uninterrupted import GLANCE, uninterrupted

ASK_ALWAYS = Policy(defaults={Direction.OUT: Answer.ASK, Direction.IN: Answer.ASK})
"""The policy of a firewall that has none: every connection is a question."""

_WAITING = 65536
_T = TypeVar("_T")


class HeldConnection:
    """A connection whose first packet waits for your answer. The first answer counts; later ones do nothing."""

    def __init__(self, firewall: Firewall, asked: Asked) -> None:
        self._firewall, self._asked = firewall, asked

    @property
    def connection(self) -> Connection:
        """All that is known of it."""
        return self._asked.connection

    @property
    def key(self) -> ConnectionKey:
        """Its protocol, local and remote end."""
        return self.connection.key

    @property
    def process(self) -> Process:
        """The program behind it."""
        return self.connection.process

    @property
    def direction(self) -> Direction:
        """Who began it."""
        return self.connection.direction

    @property
    def payload(self) -> bytes | None:
        """The whole packet that waits, from its IP header on; None when it waits no more."""
        return self._firewall.engine.driver.payload(self._asked.packet)

    async def accept(self) -> None:
        """It goes on, and the kernel handles its packets from now on."""
        self.answer(Verdict.PERMANENT_ACCEPT)

    async def block(self) -> None:
        """It is refused, and the program notices at once."""
        self.answer(Verdict.PERMANENT_BLOCK)

    async def drop(self) -> None:
        """Its packets vanish."""
        self.answer(Verdict.PERMANENT_DROP)

    def answer(self, verdict: Verdict) -> None:
        """Any verdict, from any thread.

        Raises ValueError for UNDECIDED, which is none, and for a redirect where none is allowed.
        """
        if not verdict.decided:
            raise ValueError("UNDECIDED is no answer; leave the connection waiting instead")
        if verdict.redirects and self._firewall.engine.settings.redirect is None:
            raise ValueError(NO_REDIRECT)
        self._firewall.engine.answer(self._asked.packet, verdict)

    def __str__(self) -> str:
        return f"{self.process.name}: {self.key}"


class Firewall:
    """An application firewall for this host, a control group or a network namespace (``scope``).

    ``policy`` is a `Policy`, or the path of a policy file; what it says to ask about is asked of ``decide``, or
    comes out of `connections`. ``listener`` hears every event in the firewall's thread; with ``watch`` they
    come out of `events`. A question that nobody answers within ``timeout`` seconds is answered by
    ``on_timeout``. The verdicts that redirect lead to the ports of ``redirect``; without, they are not allowed.
    Lists that the policy names are kept up to date, and in the folder ``state`` for the next start, if there is one.
    ``packet_socket`` hears, in a thread of its own, of packet sockets, which go past every firewall.
    ``fail`` is what happens to new undecided connections when this process dies: "closed"
    or "open". Entering raises KernelError, HoldError, QueueError or StateError with one sentence;
    leaving takes everything away.
    """

    def __init__(
        self,
        policy: Policy | str | Path | None = None,
        *,
        decide: Callable[[Connection], Verdict] | None = None,
        listener: Listener | None = None,
        packet_socket: Callable[[PacketSocket], None] | None = None,
        watch: bool = False,
        scope: Scope | None = None,
        fail: str = "closed",
        timeout: float = 30.0,
        on_timeout: Verdict = Verdict.PERMANENT_BLOCK,
        held: int = 1024,
        count: bool = True,
        count_every: float = 0.0,
        redirect: RedirectPorts | None = None,
        state: str | Path | None = None,
        name: str = "host",
    ) -> None:
        settings = Settings(
            name=name,
            scope=scope or Scope.host(),
            fail=fail,
            timeout=timeout,
            on_timeout=on_timeout,
            held=held,
            count=count,
            count_every=count_every,
            redirect=redirect,
            state=None if state is None else Path(state),
        )
        self._decide, self._listener, self._watch = decide, listener, watch
        self._questions: _Stream[HeldConnection] = _Stream()
        self._events: _Stream[Event | Counted] = _Stream()
        self._has_ended = threading.Event()
        wants_events = listener is not None or watch
        self.engine = Engine(
            _policy(policy),
            settings,
            decide=decide,
            ask=None if decide else self._asked,
            listener=self._happened if wants_events else None,
            ended=self._over,
            packet_socket=packet_socket,
        )

    # --- without asyncio -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Puts the firewall in force. Ctrl-C meanwhile takes it away again."""
        try:
            with uninterrupted():
                self.engine.start()
        except KeyboardInterrupt:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes it away, whole: Ctrl-C waits until that is done."""
        with uninterrupted():
            self.engine.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the firewall has ended, or until ``timeout`` seconds have passed. Returns whether it has ended.

        Where it ended by an error, the error is raised here. Ctrl-C ends the wait with KeyboardInterrupt.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self._has_ended.is_set():
            left = GLANCE if until is None else until - time.monotonic()
            if left <= 0:
                return False
            self._has_ended.wait(min(left, GLANCE))
        if self.engine.failure is not None:
            raise self.engine.failure
        return True

    def load(self, policy: Policy | str | Path) -> None:
        """Puts another policy in force. Raises PolicyError, and then the old one stays."""
        self.engine.load(_policy(policy))

    def statistics(self) -> dict[str, int]:
        """Counters by name: held, released, refused, gave_way, timed_out, events that were lost and so on."""
        lost = {"questions_dropped": self._questions.dropped, "watched_events_dropped": self._events.dropped}
        return self.engine.statistics() | lost

    # --- with asyncio --------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Puts the firewall in force, without stopping the event loop meanwhile."""
        loop = asyncio.get_running_loop()
        self._questions.open(loop)
        self._events.open(loop)
        starting = asyncio.create_task(asyncio.to_thread(self.engine.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # a thread cannot be cancelled: what it started is taken away again
            await asyncio.wait([starting])
            await asyncio.to_thread(self.engine.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes it away."""
        await asyncio.to_thread(self.engine.stop)

    def connections(self) -> AsyncIterator[HeldConnection]:
        """Connections that wait for an answer, in the order in which they came. Not together with ``decide``.

        It ends with the firewall; if that ended by an error, the error is raised here.
        """
        if self._decide is not None:
            raise ValueError("`decide` answers already; leave it out to answer what `connections` brings")
        return self._questions.items()

    def events(self) -> AsyncIterator[Event | Counted]:
        """Everything that happens: Asked, Decided, Established, Ended, Counted. Needs ``watch=True``."""
        if not self._watch:
            raise ValueError("nothing is watched; make the firewall with watch=True")
        return self._events.items()

    # --- in the firewall's thread --------------------------------------------------------------

    def _asked(self, asked: Asked) -> None:
        self._questions.put(HeldConnection(self, asked))

    def _happened(self, event: Event | Counted) -> None:
        if self._listener is not None:
            self._listener(event)
        if self._watch:
            self._events.put(event)

    def _over(self) -> None:
        for stream in (self._questions, self._events):
            stream.end(self.engine.failure)
        self._has_ended.set()


def _policy(given: Policy | str | Path | None) -> Policy:
    if given is None:
        return ASK_ALWAYS
    return given if isinstance(given, Policy) else Policy.load(given)


class _Stream(Generic[_T]):
    """From the firewall's thread into an event loop. Bounded: when nobody reads, the oldest goes, counted."""

    def __init__(self) -> None:
        self.dropped = 0
        self._items: deque[_T] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._there = asyncio.Event()
        self._ended = False
        self._failure: BaseException | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def put(self, item: _T) -> None:
        if len(self._items) >= _WAITING:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._tell()

    def end(self, failure: BaseException | None) -> None:
        self._ended, self._failure = True, failure
        self._tell()

    def _tell(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._there.set)

    async def items(self) -> AsyncIterator[_T]:
        while True:
            while self._items:
                yield self._items.popleft()
            self._there.clear()
            if self._items:
                continue
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return
            await self._there.wait()
