"""A driver in force that asks its owner: what the devices share, in process and by socket.

While there is no owner, what would have to be asked is dropped, or let through if the user chose ``fail = open``,
packet by packet: the next owner is asked about the next one.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import asdict

from tidewaiter.driver.core import Action, Asked, Ended, Event
from tidewaiter.driver.device import Device
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer
from tidewaiter.protocol.command import ClearCache, Command, GetBandwidthStats, Update, VerdictCommand
from tidewaiter.protocol.info import Severity
from tidewaiter.service.engine import Counted, Engine, Listener
from tidewaiter.service.settings import Settings

log = logging.getLogger("tidewaiter")

ASK = Policy(defaults={Direction.OUT: Answer.ASK, Direction.IN: Answer.ASK})
"""The owner is the policy, where there is no other."""


class OwnedDriver:
    """An engine and the two streams of its owner.

    ``told`` is called in the engine's thread when there may be something to read, or the engine has come to its end
    (``over``). ``listener`` hears there of everything besides the owner, who is asked about what ``policy`` says to ask
    about.
    """

    def __init__(
        self,
        settings: Settings,
        told: Callable[[], None],
        listener: Listener | None = None,
        policy: Policy = ASK,
    ) -> None:
        self._fail_open, self._policy = settings.fail_open, policy
        self._redirects = settings.redirect is not None
        self._told, self._listener = told, listener
        self._owner: int | None = None
        self.over = False
        self.engine = Engine(
            policy, settings, decide=self._decide, listener=self._hear, ended=self._ended, tells_all=True
        )
        self.device = Device(self.engine.driver)

    def take(self, pid: int) -> None:
        """A process becomes the owner, and begins to read at an info. Raises OSError (EBUSY) while there is another."""
        if self._owner is not None:
            raise OSError(errno.EBUSY, f"process {self._owner} owns the driver already")
        self.device.forget_reader()
        self._owner = pid

    def give_up(self) -> None:
        """The owner has gone, from any thread; what is held for it goes as ``fail`` says."""
        self._owner = None
        self.engine.command(self._let_go)

    def obey(self, command: Command) -> None:
        """Any command but Shutdown, which is its transport's, from any thread but the engine's."""
        if isinstance(command, ClearCache):
            try:
                self.engine.load(
                    self._policy
                )  # a new epoch: every connection is asked about with its next packet
            except (KernelError, RuntimeError, TimeoutError) as error:
                self.device.log(Severity.ERROR, f"The verdicts stay: {error}")
        else:
            self.engine.command(lambda: self._carry_out(command))

    def refuse(self, reason: str) -> None:
        """Bytes that are no command, after those before them."""

        def log_it() -> list[Action]:
            self.device.bad_command(reason)
            return []

        self.engine.command(log_it)

    def load(self, policy: Policy) -> None:
        """Puts another policy in force. Raises what `Engine.load` does."""
        self.engine.load(policy)
        self._policy = policy

    def statistics(self) -> dict[str, int]:
        """The counters of the engine and of the device, by name."""
        return self.engine.statistics() | asdict(self.device.statistics)

    # --- in the engine's thread ----------------------------------------------------------------

    def _decide(self, connection: Connection) -> Verdict | None:
        """The owner's own traffic is never held; without an owner nobody can answer."""
        if self._owner is None:
            return Verdict.ACCEPT if self._fail_open else Verdict.DROP
        return Verdict.PERMANENT_ACCEPT if connection.process.pid == self._owner else None

    def _hear(self, event: Event | Counted) -> None:
        if self._listener is not None and self.engine.logs(event.connection):
            self._listener(event)
        if isinstance(event, Asked | Ended):
            self.device.tell(event)
            self._told()

    def _carry_out(self, command: Command) -> list[Action]:
        if isinstance(command, GetBandwidthStats):
            self.engine.machine.count()
        if isinstance(command, VerdictCommand | Update) and command.verdict.redirects and not self._redirects:
            self.device.log(Severity.ERROR, "This driver redirects nothing: the verdict changes nothing")
            return []
        try:
            return self.device.command(command, time.monotonic_ns())
        except Exception:
            log.exception("a command of the owner failed: %s", type(command).__name__)
            self.device.log(Severity.ERROR, f"{type(command).__name__} failed; the driver goes on")
            return []
        finally:
            self._told()

    def _ended(self) -> None:
        self.over = True
        self._told()

    def _let_go(self) -> list[Action]:
        verdict = Verdict.ACCEPT if self._fail_open else Verdict.DROP
        driver, now = self.engine.driver, time.monotonic_ns()
        self.device.log(Severity.WARNING, "The owner has gone")
        return [action for number in driver.packets.ids() for action in driver.verdict(number, verdict, now)]
