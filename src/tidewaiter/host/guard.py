"""Looks after what we have put into the kernel: what others flush, detach or take is noticed and put back.

In a thread of its own, four looks a second, each a few system calls (watch.py, kernel/links.py); programs are started
only when something has changed, about once a second in each namespace at most. Meanwhile the gate lets nothing
undecided pass, unless `fail` is open; but what is forwarded, which only the hold decides, passes uncounted until its
rules are back. Each thing that has happened is told in one sentence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tidewaiter.host import admission, hold
from tidewaiter.host.counters import Counters
from tidewaiter.host.hold import HoldError, HoldRules, Method, Standing
from tidewaiter.host.install import Installed
from tidewaiter.host.queue import Queue
from tidewaiter.host.scope import OWN_NAMESPACE
from tidewaiter.host.watch import QueueTable, Watch, watch
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.links import Links

log = logging.getLogger("tidewaiter")

EVERY = 0.25
"""Seconds between two looks."""

_PAUSE = 0.75  # seconds between two questions to iptables about one namespace
_LONG_PAUSE = 10.0  # when what was put back does not stay, or cannot be put back
_FAILURES = 3  # in a row, after which it is said and the long pause taken
_STUBBORN = 10  # repairs in a row, less than the long pause apart, after which it is taken


@dataclass(slots=True)
class _Place:
    """The hold rules and the queue of one namespace."""

    rules: HoldRules
    method: Method
    queue: Queue
    watch: Watch
    table: QueueTable
    stamp: bytes = b""
    next_question: float = 0.0
    repaired: float = 0.0
    in_a_row: int = 0
    failures: int = 0
    dropped: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """The namespace, for people."""
        where = self.rules.where
        return "" if where is None or where == OWN_NAMESPACE else f" in {where}"


class Guard:
    """Looks after one installed firewall from `start` to `stop`. ``say`` is told what happened, in that thread."""

    def __init__(self, installed: Installed, say: Callable[[str], object]) -> None:
        """Raises OSError, KernelError."""
        self._say = say
        self._group = Path(installed.state.cgroup)
        self._kernel, self._counters = installed.kernel, Counters(installed.kernel)
        self._unheld = self._counters.unheld()
        self._stop = threading.Event()
        self._open: dict[str, str] = {}
        self.full = self.overrun = 0
        with ExitStack() as stack:
            self._links = Links(installed.kernel.pins, self._group)
            stack.callback(self._links.close)
            self._places = []
            holds = installed.state.hold_rules()
            for (rules, method), queue in zip(holds, installed.queues, strict=True):
                watching = watch(rules.where, method, rules.tables)
                stack.callback(watching.close)
                table = QueueTable(rules.where)
                stack.callback(table.close)
                self._places.append(_Place(rules, method, queue, watching, table))
            self._closing = stack.pop_all()
        self._thread = threading.Thread(target=self._run, name="tidewaiter-guard", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more: from now on rules may be removed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._closing.close()

    def statistics(self) -> dict[str, int]:
        """Packets that the kernel dropped before we saw them: the queue was full, or the buffer of its socket."""
        return {"queue_full": self.full, "queue_overrun": self.overrun}

    def look(self) -> None:
        """Looks at everything once, and repairs what it can."""
        self._look_at_links()
        self._look_at_admission()
        for place in self._places:
            self._look_at_queue(place)
            self._look_at_rules(place)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:
                log.exception("looking after the firewall failed; it goes on")
            self._stop.wait(EVERY)

    # --- what is looked at ---------------------------------------------------------------------

    def _look_at_links(self) -> None:
        for name in self._links.lost():
            attached = self._links.attached(name)
            try:
                self._links.repair(name)
            except (KernelError, OSError) as error:
                self._trouble(name, f"{name} is not in force: {error.strerror or error}")
                continue
            if attached:
                self._healed(name, f"the pin of {name} was removed by another program; it is there again")
            else:
                text = f"{name} was detached from {self._group} by another program; it is attached again"
                self._healed(name, text)

    def _look_at_admission(self) -> None:
        before, self._unheld = self._unheld, self._counters.unheld()
        if self._unheld == before:
            self._open.pop("admission", None)
        elif admission.is_full(self._kernel):
            self._trouble(
                "admission",
                "more comes in than anybody answers: what there is no room to ask about is treated as `fail` says; "
                "statistics count it as unheld_dropped or unheld_passed",
            )

    def _look_at_queue(self, place: _Place) -> None:
        number, port = place.queue.number, place.queue.port
        row = place.table.read().get(number)
        if row is None or row.port != port:
            whose = f"the program with netlink port {row.port} has it" if row else "it was taken away"
            self._trouble(
                f"queue {number}", f"queue {number}{place.name} is not ours any more: {whose}; taking it back"
            )
            place.queue.bind_again()
            place.dropped = (0, 0)
            return
        self._healed(f"queue {number}", f"queue {number}{place.name} is ours again", only_after_trouble=True)
        full, overrun = row.full - place.dropped[0], row.overrun - place.dropped[1]
        place.dropped = row.full, row.overrun
        self.full += full
        self.overrun += overrun
        if full + overrun:
            self._trouble(
                f"overrun {number}",
                f"{full + overrun} packets came faster{place.name} than they were taken from queue {number}, and were "
                "dropped; statistics count them as queue_full and queue_overrun",
            )
        else:
            self._open.pop(f"overrun {number}", None)

    def _look_at_rules(self, place: _Place) -> None:
        now = time.monotonic()
        if now < place.next_question:
            return
        stamp = place.watch.stamp()
        if stamp == place.stamp:
            return
        place.next_question = now + _PAUSE
        try:
            standing = hold.standing(place.rules, place.method)
            if standing is not Standing.FIRST:
                hold.put_back(place.rules, place.method)
        except HoldError as error:
            place.failures += 1
            if (
                place.failures >= _FAILURES
            ):  # below that, somebody may have changed the same rules at the same moment
                place.next_question = now + _LONG_PAUSE
                self._trouble(
                    f"rules {place.rules.queue}",
                    f"the hold rules{place.name} cannot be looked after, so new connections may have to wait: {error}",
                )
            return
        place.failures = 0
        if standing is Standing.FIRST:
            place.stamp = stamp  # of before: a change since then is seen next time
            self._open.pop(f"rules {place.rules.queue}", None)
            return
        place.stamp = b""  # asked about again: rules that were flushed once more look as they did
        self._count_repair(place, now)
        how = "were gone" if standing is Standing.GONE else "stood behind the rules of another program"
        self._healed(f"rules {place.rules.queue}", f"the hold rules{place.name} {how}; they are put back")

    def _count_repair(self, place: _Place, now: float) -> None:
        """Two programs that both want to be first must not keep each other busy."""
        place.in_a_row = place.in_a_row + 1 if now - place.repaired < _LONG_PAUSE else 1
        place.repaired = now
        if place.in_a_row >= _STUBBORN:
            place.next_question = now + _LONG_PAUSE
            place.in_a_row = 0

    # --- what is told --------------------------------------------------------------------------

    def _trouble(self, what: str, text: str) -> None:
        """Something is wrong, and may stay so: told once."""
        if what not in self._open:
            self._open[what] = text
            self._say(text)

    def _healed(self, what: str, text: str, *, only_after_trouble: bool = False) -> None:
        """Something was wrong and is right again: told each time."""
        trouble = self._open.pop(what, None)
        if trouble is not None or not only_after_trouble:
            self._say(text)
