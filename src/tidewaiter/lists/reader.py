"""Reads a list of any format: bytes in, as they come, and a `CompiledList` out."""

from __future__ import annotations

from collections.abc import Sequence

from tidewaiter.lists import _native, domains, networks
from tidewaiter.lists.compiled import CompiledList, Counts
from tidewaiter.lists.entry import Entry, LineError, ListError, NameEntry, Say
from tidewaiter.lists.formats import Format, detect, is_comment
from tidewaiter.lists.names import excerpt

TOLERATED = 0.05
"""The share of lines that may be bad, of those that are no comments, before the whole list is."""

LONGEST_LINE = 64 * 1024
"""Bytes of a line. A longer one is no line of a list."""

_TOO_LONG = f"a line of more than {LONGEST_LINE:,} bytes, so it is no list"
_SAMPLE = 64 * 1024
_HOPELESS = 10_000  # bad lines, of which a list need not have more if they are the most of it
_MESSAGES = 20
_ODD = 1000  # lines that the native module hands back at once


class Reader:
    """Takes the bytes of one list with `feed`, and makes the list with `finish`.

    ``label`` is what its messages begin with, a path or a URL. Without a format the text must tell which it is.
    ``tolerated`` is the share of bad lines that are passed over; more of them make the list bad, since it is then
    more likely something else. Both methods raise ListError.
    """

    def __init__(self, label: str, form: Format | None = None, tolerated: float = TOLERATED) -> None:
        self._label = label
        self._form = form
        self._parse = form.parser() if form else None
        self._tolerated = tolerated
        self._pending = b""
        self._begun = False
        self._line = 0
        self._entries = 0
        self._skipped = 0
        self._bad = 0
        self._messages: list[str] = []
        self._names = bytearray()
        self._name_count = 0
        self._records4 = bytearray()
        self._records6 = bytearray()

    def feed(self, data: bytes) -> None:
        """The next bytes; blocks of 64 KiB and more are read quickly."""
        self._pending += data
        if self._form is None and len(self._pending) < _SAMPLE:
            return
        end = self._pending.rfind(b"\n") + 1
        if len(self._pending) - end > LONGEST_LINE:
            raise ListError(f"{self._label} has {_TOO_LONG}")
        whole, self._pending = self._pending[:end], self._pending[end:]
        if whole:
            self._take(whole)

    def finish(self) -> CompiledList:
        """The list, when all its bytes have come."""
        if self._pending:
            self._take(self._pending)
        self._judge(self._tolerated)
        form = self._chosen()
        names, self._names = self._names, bytearray()
        try:
            return CompiledList(
                form.name,
                domains.build(names, self._name_count, form.nearest),
                networks.build(self._records4, self._records6),
                Counts(self._line, self._entries, self._skipped, self._bad, tuple(self._messages)),
            )
        except ValueError as error:
            raise ListError(f"{self._label} is too large: {error}") from None

    def _judge(self, tolerated: float) -> None:
        """Raises ListError if more than this share of lines is bad."""
        lines = self._entries + self._skipped + self._bad
        if self._bad > tolerated * lines:
            raise ListError(
                f"{self._label} is no good list: {self._bad:,} of {lines:,} lines are bad; "
                f"the first: {self._messages[0].removeprefix(self._label).lstrip(', ')}"
            )

    def _chosen(self) -> Format:
        """The format, which an empty text does not tell."""
        if self._form is None:
            raise ListError(f"{self._label} is empty")
        return self._form

    def _take(self, text: bytes) -> None:
        """Whole lines."""
        if not self._begun:
            self._begun = True
            text = text.removeprefix(b"\xef\xbb\xbf")
        if self._form is None:
            self._form = detect(text[:_SAMPLE].decode(errors="replace"))
            if self._form is None:
                raise ListError(
                    f"{self._label} has no format that is known here: it begins with "
                    f"{excerpt(text[:80].decode(errors='replace').strip())}"
                )
            self._parse = self._form.parser()
        at = 0
        while at < len(text):
            at, odd = self._scan(self._form, text, at)
            for line, start, size in odd:
                if size > LONGEST_LINE:
                    raise ListError(f"{self._label} has {_TOO_LONG}")
                self._odd(self._form, line, text[start : start + size])
            if self._bad > _HOPELESS:
                self._judge(max(self._tolerated, 0.5))

    def _scan(self, form: Format, text: bytes, at: int) -> tuple[int, Sequence[tuple[int, int, int]]]:
        """Reads the common lines from an offset on; where it stopped, and the others."""
        comments, inline = form.comments.encode(), form.inline_comments.encode()
        if form.networks:
            old = len(self._records4) // 6 + len(self._records6) // 18
            at, self._line, odd = _native.scan_networks(
                text, at, self._line, _ODD, Say.LISTED, comments, inline, self._records4, self._records6
            )
            self._entries += len(self._records4) // 6 + len(self._records6) // 18 - old
        else:
            found, at, self._line, odd = _native.scan_names(
                text, at, self._line, _ODD, form.shapes, comments, inline, self._names
            )
            self._name_count += found
            self._entries += found
        return at, odd

    def _odd(self, form: Format, number: int, raw: bytes) -> None:
        """A line that only the format's own parser can read."""
        assert self._parse is not None
        line = raw.decode(errors="replace")
        if is_comment(line, form.comments):
            return
        try:
            entries = self._parse(line)
        except LineError as error:
            self._is_bad(number, error.column, error.sentence)
        except ListError as error:
            raise ListError(f"{self._label}, line {number}: {error}") from None
        else:
            self._skipped += not entries
            self._entries += bool(entries)
            for entry in entries:
                self._add(entry)

    def _is_bad(self, line: int, column: int, sentence: str) -> None:
        self._bad += 1
        if len(self._messages) < _MESSAGES:
            self._messages.append(f"{self._label}, line {line}, column {column}: {sentence}")

    def _add(self, entry: Entry) -> None:
        if isinstance(entry, NameEntry):
            self._names += domains.record(entry)
            self._name_count += 1
        elif entry.network.version == 4:
            self._records4 += networks.record(entry)
        else:
            self._records6 += networks.record(entry)
