"""Who takes the lab away: a process of its own that outlives the owner, whatever ends it.

The owner tells it through a pipe what will be made, *before* it is made. When the owner says so, or when the
pipe ends because the owner died (kill -9 as well), everything is removed. There is no other way to
remove a lab: a normal exit and a crash do the same.

A line of the pipe is a JSON pair: a kind of ``_REMOVERS`` and a path, or ``end``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from tidewaiter.host import cgroup, namespace, state

# In this order: processes end before the filters that hold them go, and before what they stand on.
_REMOVERS: dict[str, Callable[[Path], None]] = {
    "cgroup": cgroup.remove,
    "tree": shutil.rmtree,
    "file": Path.unlink,
    "namespace": lambda path: namespace.delete(path.name),
}
_END = "end"


class LabError(Exception):
    """The lab cannot be built on this host, or not be removed; the message is one sentence."""


class Janitor:
    """The owner's side: starts the janitor, tells it what to remove, and waits for it at the end."""

    def __init__(self) -> None:
        """Start it, in a session of its own, so that no signal to the owner's group reaches it.

        When this returns it listens, so it is safe to make things. Raises LabError when it does not start.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            ready = output.readline()
        if not ready:
            self._end()
            raise LabError("the lab's janitor did not start: see its message above")

    def will_remove(self, kind: str, path: Path) -> None:
        """Register what is to go: a ``cgroup``, a ``namespace``, a ``tree`` of files or a ``file``.

        It need not be there yet. Raises BrokenPipeError when the janitor is not there any more.
        """
        assert kind in _REMOVERS
        self._tell(kind, path)

    def finish(self) -> None:
        """Have everything removed, now. Raises LabError when something would not go."""
        self._tell(_END, Path())
        if self._end() != 0:
            raise LabError("the lab was not removed completely: see the message above")

    def _end(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()

    def _tell(self, kind: str, path: Path) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps([kind, os.fspath(path)]).encode() + b"\n")
        pipe.flush()


def listen(lines: Iterable[str | bytes]) -> dict[str, list[Path]]:
    """What to remove, by kind, once the owner has said it all or has died."""
    registered = defaultdict(list)
    for line in lines:
        kind, path = json.loads(line)
        if kind == _END:
            break
        registered[kind].append(Path(path))
    return registered


def remove(registered: dict[str, list[Path]]) -> list[str]:
    """Remove everything that is there; return a sentence for each thing that would not go."""
    failures = []
    for kind, remover in _REMOVERS.items():
        for path in registered.get(kind, ()):
            try:
                remover(path)
            except FileNotFoundError:
                pass  # it was never made, or the owner has removed it
            except OSError as error:
                failures.append(f"the {kind} {path} was not removed: {error}")
    with contextlib.suppress(OSError):  # not empty: others are there
        state.PINS.rmdir()
    return failures


def _main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # the owner has died already, and made nothing
        os.write(sys.stdout.fileno(), b"ready\n")
    failures = remove(listen(sys.stdin.buffer))
    for failure in failures:
        print(f"tidewaiter lab: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(_main())
