"""Every change of a policy file as a version: who made it, when and why, and the text that came of it.

The versions are lines of JSON beside the file, ``FILE.history``. A change that was made by hand is noticed at the next
look and becomes a version too. The file itself is replaced in one step, so nobody reads half of it.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

KEPT = 1000
"""Versions of one file; the oldest goes."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all versions of one file; the oldest go."""

BY_HAND = "changed by hand"


class HistoryError(ValueError):
    """A version that is not there, or a history that cannot be read, in one sentence."""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the file. ``time`` is seconds since 1970."""

    number: int
    time: float
    who: str
    why: str
    text: str


class History:
    """The versions of one file."""

    def __init__(self, file: Path) -> None:
        """Reads them. Raises HistoryError and OSError."""
        self.file = file
        real = file.resolve()  # one history, by whatever link it is changed
        self.path = real.with_name(f"{real.name}.history")
        self.versions: list[Version] = []
        if self.path.exists():
            for number, line in enumerate(self.path.read_text().splitlines(), 1):
                try:
                    self.versions.append(Version(**json.loads(line)))
                except (ValueError, TypeError):
                    raise HistoryError(
                        f"{self.path}:{number}: this is no version; move the file away"
                    ) from None

    def notice(self, now: float) -> None:
        """Makes a version of what the file holds, if nobody has told of it."""
        text = read_text(self.file)
        if not self.versions or self.versions[-1].text != text:
            changed = self.file.stat().st_mtime
            self._append(
                changed if self.versions else now,
                "unknown",
                BY_HAND if self.versions else "as it was found",
                text,
            )

    def change(self, text: str, now: float, who: str, why: str) -> Version:
        """Writes the file anew, and the version."""
        self.notice(now)
        version = self._append(now, who, why, text)
        replace_text(self.file, text)
        return version

    def get(self, number: int) -> Version:
        """A version by its number, or counted from the last (-1). Raises HistoryError."""
        wanted = number if number > 0 or not self.versions else self.versions[-1].number + 1 + number
        for version in self.versions:
            if version.number == wanted:
                return version
        raise HistoryError(f"{self.file} has no version {number}")

    def diff(self, old: Version, new: Version) -> str:
        """What is different, as a unified diff."""
        return "".join(
            difflib.unified_diff(
                old.text.splitlines(keepends=True),
                new.text.splitlines(keepends=True),
                f"{self.file} (version {old.number})",
                f"{self.file} (version {new.number})",
            )
        )

    def _append(self, now: float, who: str, why: str, text: str) -> Version:
        number = self.versions[-1].number + 1 if self.versions else 1
        version = Version(number, now, who, why, text)
        self.versions.append(version)
        size = sum(len(one.text) for one in self.versions)
        whole = len(self.versions) <= KEPT and size <= MAX_BYTES
        while len(self.versions) > 1 and (len(self.versions) > KEPT or size > MAX_BYTES):
            size -= len(self.versions.pop(0).text)
        if whole and self.path.exists():
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(version)) + "\n")
        else:
            replace_text(
                self.path, "".join(json.dumps(asdict(one)) + "\n" for one in self.versions), like=self.file
            )
        return version


def read_text(path: Path) -> str:
    """What a file holds, with the line ends that it has. Raises OSError and UnicodeDecodeError."""
    return path.read_bytes().decode()


def replace_text(path: Path, text: str, like: Path | None = None) -> None:
    """Writes a file in one step, with the rights that it (or another) has. Raises OSError."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        model = path if path.exists() else like
        if model is not None:
            status = model.stat()
            Path(name).chmod(status.st_mode & 0o777)
            if os.geteuid() == 0:
                os.chown(name, status.st_uid, status.st_gid)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
