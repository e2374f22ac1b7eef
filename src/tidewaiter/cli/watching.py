"""What a command that runs until it is told to stop looks at meanwhile: its signals, and a file that may change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tidewaiter.cli.options import load_policy
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError


def changes(path: str | None, others: Callable[[], Iterable[str]] = tuple) -> Iterator[bool]:
    """Whether a file, or one of the ``others``, has changed since the last call; never for None."""

    def stamp(one: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(one)  # noqa: PTH116
        except OSError:
            return None  # between two versions, for an editor that renames
        return found.st_mtime_ns, found.st_size, found.st_ino

    def stamps() -> dict[str, tuple[int, int, int]]:
        paths = dict.fromkeys((path, *others())) if path else {}
        return {one: found for one in paths if one and (found := stamp(one))}

    last = stamps()
    while True:
        now = stamps()
        # what is looked at for the first time has not changed, except for the file itself: it is there again
        yield any(last.get(one, None if one == path else found) != found for one, found in now.items())
        last |= now


class PolicyFile:
    """The policy file of a firewall that runs, followed with all that it includes. ``path`` None: there is none."""

    def __init__(self, path: str | None) -> None:
        """From now on changes count, also before `first` has read the file."""
        self._path = path
        self._watched: tuple[str, ...] = ()
        self._changes = changes(path, lambda: self._watched)
        next(self._changes)

    def first(self) -> Policy:
        """The policy to start with. Raises PolicyError."""
        return self._followed(load_policy(self._path))

    def changed(self) -> bool:
        """Whether anything of it has changed since the last call."""
        return next(self._changes)

    def reload(self, load: Callable[[Policy], object], tell: Callable[[str], object]) -> None:
        """Reads it again and passes it to ``load``; what came of it is told in a sentence."""
        if self._path is None:
            return
        try:
            policy: Policy = Policy.load(self._path)
            load(policy)
        except PolicyError as error:
            tell(f"{error}; the policy in force stays")
        except KernelError as error:
            tell(f"{self._path}: {error.strerror}; the policy in force stays")
        else:
            self._followed(policy)
            tell(f"{self._path} is in force")

    def _followed(self, policy: Policy) -> Policy:
        """The policy itself; what it was read from is what is watched from now on."""
        self._watched = policy.files + policy.folders
        return policy


@contextmanager
def signals() -> Iterator[set[int]]:
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
