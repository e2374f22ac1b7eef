"""Keeps what the policy in force is looked up in up to date, in threads of its own: the engine's loop never waits.

One thread looks at files, every few seconds, the other asks servers, so that one that does not answer keeps nobody from
seeing a file that has changed. Either may find that the world has changed; whoever decides takes the new one when he
comes to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import World
from tidewaiter.service.world import Say, Sources

log = logging.getLogger("tidewaiter")

LOOK = 2.0
"""Seconds between two looks at the files, and at which servers are to be asked."""

_PATIENCE = 1.0
"""Seconds to wait for a thread that shall end. One that waits for a server ends when it has an answer."""


class Keeper:
    """Reads the sources of policies, and follows those that are in use from `start` to `stop`.

    ``state`` is the folder for what shall be there at the next start, None for none. ``changed`` is called in our
    threads when `world` would say something new.
    """

    def __init__(self, state: Path | None, say: Say, changed: Callable[[], object]) -> None:
        self._state, self._tell, self._changed = state, say, changed
        self._used: Sources | None = None
        self._stopping = Event()
        self._threads: list[Thread] = []

    def read(self, policy: Policy) -> Sources:
        """Reads what the rules of a policy are looked up in; in any thread, which may take a while."""
        sources = Sources(policy, self._state, self._say, self._used)
        for url in sources.missing():
            self._say(f"the list of {url} is empty until it has been fetched")
        return sources

    def use(self, sources: Sources) -> World:
        """These are followed from now on."""
        self._used = sources
        return sources.world()

    def world(self) -> World | None:
        """What is new, if anything is."""
        used = self._used
        return used.world() if used is not None and used.stale else None

    def start(self) -> None:
        """Begins to look for what is new."""
        if self._used is not None:
            with suppress(OSError):
                self._used.tidy()
        for work in (self._look, self._ask):
            thread = Thread(target=self._follow, args=(work,), name="tidewaiter-lists", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Nothing is told from now on."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._threads.clear()

    def _follow(self, work: Callable[[Sources], object]) -> None:
        while not self._stopping.is_set():
            if self._used is not None:
                try:
                    work(self._used)
                    self._heard()
                except Exception:  # what is in use stays
                    log.exception("bringing lists up to date failed")
            self._stopping.wait(LOOK)

    def _look(self, used: Sources) -> None:
        used.look_at_files()

    def _ask(self, used: Sources) -> None:
        used.ask_servers(self._heard)

    def _heard(self) -> bool:
        """Tells of what is new at once. Whether there is no more to be done."""
        over = self._stopping.is_set()
        if not over and self._used is not None and self._used.stale:
            self._changed()
        return over

    def _say(self, text: str) -> None:
        if not self._stopping.is_set():
            self._tell(text)
