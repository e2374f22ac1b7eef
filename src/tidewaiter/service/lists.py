"""Lists from files and from the network: read, kept, brought up to date; and the old one stays when the new one is bad.

A `Subscription` keeps two files in a folder of ours: the text that a server sent, and the compiled list, with what
the server said of its version. Each is written aside, flushed, and renamed, so that either the old or the new one is
there whatever happens; the compiled one has a checksum. It is what a program starts with; should it be of another
version or damaged, the text is read again. `refresh` blocks, for as long as the limits say, so it is for a thread of
its own, and the list in use changes at its end, at once.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from tidewaiter.lists import FORMATS, CompiledList, ListError, Reader, dump, load
from tidewaiter.service.download import DownloadError, Limits, Validators, download

DEFAULT = Limits()
"""64 MiB and a minute."""

_BLOCK = 128 * 1024  # reading one lets other threads wait for a millisecond or two
_COMPILED, _TEXT, _NEW = ".list", ".text", "new-"


class State(StrEnum):
    """What became of the attempt to restore or to refresh a list."""

    NEW = "new"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it, and a sentence that says so."""

    state: State
    sentence: str


class Subscription:
    """One list: its name, where it comes from (a path, or a URL of http or https), and its format.

    The format is one of `FORMATS`, or "" where the text shall tell. ``folder`` is for us alone; it is made if it is
    missing; without one (None) nothing is kept. ``list`` is the list in use, None before there is one. Raises
    ValueError for another format or a source of another kind, OSError for a folder that cannot be made.
    """

    def __init__(
        self, name: str, source: str, form: str, folder: Path | None, limits: Limits = DEFAULT
    ) -> None:
        if form and form not in FORMATS:
            raise ValueError(f"list {name!r}: there is no format {form!r}, only {', '.join(FORMATS)}")
        kind = source.partition("://")[0].lower() if "://" in source else ""
        if kind not in {"", "http", "https"}:
            raise ValueError(f"list {name!r}: {source} is neither a path nor a URL of http or https")
        self.name = name
        self.source = source
        self.list: CompiledList | None = None
        self.remote = bool(kind)
        self._form = FORMATS.get(form)
        self._limits = limits
        self._notes: dict[str, Any] = {}
        self._compiled: Path | None = None
        self._text: Path | None = None
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            digest = blake2b(f"{name}\0{source}\0{form}".encode(), digest_size=12).hexdigest()
            self._compiled = folder / f"{digest}{_COMPILED}"
            self._text = folder / f"{digest}{_TEXT}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the compiled list and, of one from the network, its text are kept."""
        return tuple(path for path in (self._compiled, self._text) if path is not None)

    def restore(self) -> Outcome:
        """Takes the list that was kept, if there is one, without asking its source."""
        none = Outcome(State.FAILED, f"list {self.name!r} was not kept")
        if self._compiled is None or self._text is None:
            return none
        try:
            self.list, self._notes = _load(self._compiled)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Missing, damaged, or of another version: what a server once sent is still there to be read.
            text = self._text
            return self._attempt(lambda: self._reread(text)) if self.remote and text.exists() else none
        return Outcome(State.NEW, self._said("as it was kept"))

    def refresh(self) -> Outcome:
        """Takes a newer version from the source if there is one, and keeps it. A bad one changes nothing."""
        return self._attempt(self._fetch if self.remote else self._read)

    def _attempt(self, work: Callable[[], bool]) -> Outcome:
        try:
            changed = work()
        except (ListError, DownloadError) as error:
            reason = str(error)
        except OSError as error:
            reason = f"{error.filename or self.source}: {error.strerror or error}"
        else:
            if changed:
                return Outcome(State.NEW, self._said(f"from {self.source}"))
            return Outcome(State.UNCHANGED, f"list {self.name!r} is up to date")
        what = "cannot be used" if self.list is None else "stays as it was"
        return Outcome(State.FAILED, f"list {self.name!r} {what}: {reason}")

    def _said(self, origin: str) -> str:
        """The sentence about a list that is in use now."""
        assert self.list is not None
        counts = self.list.counts
        sentence = (
            f"list {self.name!r} {origin}: {len(self.list.domains):,} names and {len(self.list.networks):,} ranges of "
            f"addresses ({self.list.format})"
        )
        if counts.bad:
            sentence += f"; {counts.bad:,} bad lines were passed over, the first: {counts.messages[0]}"
        return sentence

    # --- from the network ----------------------------------------------------------------------------

    def _fetch(self) -> bool:
        notes = self._notes if self.list is not None else {}
        known = Validators(notes.get("etag", ""), notes.get("modified", ""))
        with _aside(self._text) as file:
            found = download(self.source, file, known, self._limits)
            if found is None:
                return False
            file.seek(0)
            one = self._compile(file)
            if not one.counts.entries:
                raise ListError(f"{self.source} lists nothing, so it is not believed")
            _put(file, self._text)
        self._use(one, asdict(found))
        return True

    def _reread(self, text: Path) -> bool:
        with text.open("rb") as file:
            self._use(self._compile(file), {})
        return True

    # --- from a file ---------------------------------------------------------------------------------

    def _read(self) -> bool:
        with open(self.source, "rb", opener=_open_at_once) as file:  # Path.open takes no opener
            version = _version(file)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ListError(f"{self.source} is no ordinary file")
            if self.list is not None and self._notes.get("version") == version:
                return False
            one = self._compile(file)
            if _version(file) != version:
                raise ListError(f"{self.source} was changed while it was read; it is read again next time")
        self._use(one, {"version": version})
        return True

    # --- both ----------------------------------------------------------------------------------------

    def _compile(self, file: IO[bytes]) -> CompiledList:
        """Reads a whole text. Raises ListError."""
        reader, size = Reader(self.source, self._form), 0
        while block := file.read(_BLOCK):
            size += len(block)
            if size > self._limits.size:
                raise ListError(f"{self.source} is longer than {self._limits.size:,} bytes")
            reader.feed(block)
        return reader.finish()

    def _use(self, one: CompiledList, notes: dict[str, Any]) -> None:
        """Keeps a list, and takes it into use; without room to keep it, only that."""
        self.list, self._notes = one, notes
        if self._compiled is None:
            return
        with suppress(OSError), _aside(self._compiled) as file:
            for part in dump(one, notes):
                file.write(part)
            _put(file, self._compiled)


def tidy(folder: Path, kept: list[Subscription]) -> None:
    """Removes the files of lists that are no more, and what a crash has left: not while lists are refreshed.

    Raises OSError.
    """
    wanted = {path for one in kept for path in one.files}
    for path in folder.glob("*"):
        ours = path.suffix in {_COMPILED, _TEXT} or path.name.startswith(_NEW)
        if ours and path not in wanted:
            path.unlink(missing_ok=True)


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting, as it would for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _version(file: IO[bytes]) -> list[int]:
    """What changes when a file does."""
    found = os.fstat(file.fileno())
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def _load(path: Path) -> tuple[CompiledList, dict[str, Any]]:
    """Maps a compiled list. Raises OSError, and what `load` does."""
    with path.open("rb") as file:
        return load(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


@contextmanager
def _aside(path: Path | None) -> Iterator[IO[bytes]]:
    """A new file beside another (None: anywhere), which is gone at the end if it was not put there."""
    with NamedTemporaryFile(dir=path and path.parent, prefix=_NEW, delete=False) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def _put(file: IO[bytes], path: Path | None) -> None:
    """Puts a whole file in the place of another, if there is one. Raises OSError."""
    if path is None:
        return
    file.flush()
    os.fsync(file.fileno())
    Path(file.name).replace(path)
