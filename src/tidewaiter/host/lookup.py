"""What rules may ask about a program that its record does not hold: ancestors, environment, checksums, package.

Each is found when a rule needs it. Checksums are kept by the file's inode and change time, so a program that was
replaced is hashed anew, and said to have changed. All of it is found while the connection waits.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tidewaiter.host.packages import Packages
from tidewaiter.model.process import Process

KEPT = 4096
"""Answers of each kind that are kept; the oldest goes."""

LARGEST = 1 << 30
"""Bytes of an executable that is hashed; of a larger one no checksum is known."""

_ENVIRONMENT = 1 << 16
_BLOCK = 1 << 20
_K = TypeVar("_K")


class MachineLookup:
    """A `Lookup` of this machine. ``say`` is told of programs that have changed."""

    def __init__(
        self, say: Callable[[str], None] = lambda _text: None, packages: Packages | None = None
    ) -> None:
        self._say, self._packages = say, packages or Packages()
        self._digests: OrderedDict[tuple[int, int, int, str], str] = OrderedDict()
        self._of_path: OrderedDict[str, str] = OrderedDict()

    def ancestors(self, process: Process, /) -> tuple[str, ...]:
        """The executables of its ancestors, nearest first, as far as they live."""
        paths = []
        for pid in process.parents:
            with suppress(OSError):
                paths.append(str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)"))
        return tuple(paths)

    def environment(self, process: Process, /) -> tuple[str, ...]:
        """``VARIABLE=value``, the first 64 KiB of it."""
        try:
            with Path(f"/proc/{process.pid}/environ").open("rb") as file:
                data = file.read(_ENVIRONMENT)
        except OSError:
            return ()
        return tuple(os.fsdecode(one) for one in data.split(b"\0") if one)

    def checksum(self, process: Process, algorithm: str, /) -> str:
        """Of its executable, by ``sha256``, ``sha1`` or ``md5``, in hexadecimal."""
        for path in (f"/proc/{process.pid}/exe", process.path):
            with suppress(OSError), Path(path).open("rb") as file:
                status = os.fstat(file.fileno())
                if process.inode and status.st_ino != process.inode:
                    continue  # another program by now
                key = status.st_dev, status.st_ino, status.st_ctime_ns, algorithm
                digest = self._digests.get(key)
                if digest is None and status.st_size <= LARGEST:
                    made = hashlib.new(algorithm, usedforsecurity=False)
                    while block := file.read(_BLOCK):
                        made.update(block)
                    digest = made.hexdigest()
                    _keep(self._digests, key, digest)
                    if algorithm == "sha256":
                        self._compare(process.path, digest)
                return digest or ""
        return ""

    def package(self, process: Process, /) -> str:
        """The package that owns its executable."""
        return self._packages.of(process)

    def _compare(self, path: str, digest: str) -> None:
        before = self._of_path.get(path)
        if before is not None and before != digest:
            self._say(f"{path} has changed: its SHA-256 was {before} and is {digest}")
        _keep(self._of_path, path, digest)


def _keep(kept: OrderedDict[_K, str], key: _K, value: str) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT:
        kept.popitem(last=False)
