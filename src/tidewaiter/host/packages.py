"""The package of the distribution that owns a file: by dpkg's lists of files, or by rpm's own word.

Each path is looked for once, and again when packages have come or gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tidewaiter.model.process import Process

KEPT = 4096
"""Answers that are kept; the oldest goes."""

DPKG = Path("/var/lib/dpkg/info")
RPM = (Path("/usr/lib/sysimage/rpm"), Path("/var/lib/rpm"))
"""Where rpm's database may be: the first that has one counts."""

_DATABASES = ("rpmdb.sqlite", "Packages.db", "Packages")  # its three formats, the newest first

FRESH = 1_000_000_000
"""Nanoseconds between two looks at whether packages have come or gone."""

_PATIENCE = 10.0
_PLACES = "/usr/bin:/bin"


class Packages:
    """Finds packages on this machine. ``dpkg`` and ``rpm`` are where its databases are, ``clock`` in nanoseconds."""

    def __init__(
        self,
        dpkg: Path = DPKG,
        rpm: Sequence[Path] = RPM,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._dpkg, self._clock = dpkg, clock
        files = (place / name for place in rpm for name in _DATABASES)
        self._rpm = next((file for file in files if file.exists()), None)
        self._command = shutil.which("rpm", path=_PLACES)
        self._known: OrderedDict[str, str] = OrderedDict()
        self._seen: object = None
        self._next_look = 0

    def of(self, process: Process) -> str:
        """The package that owns a program; "" for none."""
        if not (path := process.path):
            return ""
        self._look()
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._in_dpkg(path) or self._in_rpm(path)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return known

    def _look(self) -> None:
        """Forgets what was found when a database has changed."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + FRESH
        seen = _changed(self._dpkg), self._rpm and _changed(self._rpm)
        if seen != self._seen:
            self._known.clear()
            self._seen = seen

    def _in_dpkg(self, path: str) -> str:
        """Looks through all lists; a path in /usr may be listed without it."""
        lines = {b"\n" + os.fsencode(path) + b"\n", b"\n" + os.fsencode(path.removeprefix("/usr")) + b"\n"}
        with suppress(OSError):
            for file in sorted(self._dpkg.glob("*.list")):
                with suppress(OSError):
                    data = b"\n" + file.read_bytes() + b"\n"
                    if any(line in data for line in lines):
                        return file.stem.partition(":")[0]
        return ""

    def _in_rpm(self, path: str) -> str:
        """Asks rpm itself: only one of its formats is one that others read."""
        if self._rpm is None or self._command is None:
            return ""
        place, plain = str(self._rpm.parent), {"LC_ALL": "C", "PATH": _PLACES}
        asking = [self._command, "--dbpath", place, "-qf", "--queryformat", "%{NAME}\n", path]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(asking, capture_output=True, timeout=_PATIENCE, env=plain, check=False)
            if done.returncode == 0:
                return done.stdout.partition(b"\n")[0].decode(errors="replace")
        return ""


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
