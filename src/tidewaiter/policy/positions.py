"""Where in a TOML text each key and each value stands, so that an error can point at it.

The TOML reader of the standard library tells no positions. This scanner walks the same text and notes
the offset of every key and value under its path: the second element of the list `remote` in the third
rule is ``("rule", 2, "remote", 1)``. It accepts a little more than TOML does and gives up in silence at
what it cannot follow: telling what is wrong with the syntax is left to the real reader. It runs first,
because it also refuses what that reader has no bound for: keys of very many parts, deep nesting, endless
numbers.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

from tidewaiter.policy.patterns import BadValueError

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of a document to one value."""

BOM = "\ufeff"
"""What some editors put before a text in UTF-8; it is no part of it."""

MAX_DEPTH = 8
"""How many parts a key may have and how deep lists and tables may be nested; the format needs three."""

_MAX_SCALAR = 1000
_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_KEY_PART = re.compile(r"""[ \t]*+([A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+""")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|""?(?!"))*+"{3,5}'
    r"|'''(?:[^']|''?(?!'))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_SCALAR = re.compile(r"""[^,\]}#\n]++""")


_VALUE = r"""(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|true|false|[0-9]{1,18}+)"""
_PLAIN_TEXT = re.compile(
    r"(?:[ \t]*+(?:\[\[[\w-]{1,80}+\]\]|\[[\w-]{1,80}+(?:\.[\w-]{1,80}+){0,2}+\]"
    r"|[\w-]{1,80}+(?:\.[\w-]{1,80}+){0,2}+[ \t]*+=[ \t]*+"
    rf"(?:{_VALUE}|\[[ \t]*+(?:{_VALUE}(?:[ \t]*+,[ \t]*+{_VALUE})*+[ \t]*+,?+[ \t]*+)?+\]))?+"
    r"[ \t]*+(?:#[^\n]*+)?+(?:\n|\Z))*+",
    re.ASCII,
)


def is_plain(text: str) -> bool:
    """Whether a text has only what most policies have: a key and its value on each line, and nothing nested.

    Such a text holds nothing that this module would refuse, and tables begin where a line begins with a bracket.
    """
    return _PLAIN_TEXT.fullmatch(text) is not None


class _LostError(Exception):
    """The text is not TOML at this place."""


class Positions:
    """The offsets of the keys and values of one text, and of its ``headers`` with the parts of their names.

    ``ends`` are the offsets behind each header and each key's value, in their order.

    Raises `BadValueError` for a key, a nesting or a number that no policy needs; its position is then the
    last one noted, `last`.
    """

    def __init__(self, text: str) -> None:
        """Only the lines are known before `scan`."""
        self.keys: dict[KeyPath, int] = {}
        self.values: dict[KeyPath, int] = {}
        self.last = 0
        self.headers: list[tuple[int, tuple[str, ...]]] = []
        self.ends: list[int] = []
        self._text = text
        self._lines = [match.start() for match in re.finditer("\n", text)]
        self._rows: dict[KeyPath, int] = {}  # how many [[tables]] there are so far under a path

    def scan(self) -> None:
        """Note every position of the text. Raises `BadValueError`, see the class."""
        table: KeyPath = ()
        at = self._blank(0)
        try:
            while at < len(self._text):
                if self._text[at] == "[":
                    at, table = self._header(at)
                else:
                    at = self._pair(at, table, 0)
                self.ends.append(at)
                at = self._blank(at)
        except _LostError:
            return

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """The line and the column of an offset, both counted from 1, columns in characters."""
        line = bisect_left(self._lines, offset)
        return line + 1, offset - (self._lines[line - 1] if line else -1)

    def of(self, path: KeyPath, *, key: bool = False) -> int:
        """The offset of a value, or of its key; of what encloses it if it does not stand by itself."""
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        while path:
            for offsets in (first, second):
                if path in offsets:
                    return offsets[path]
            path = path[:-1]
        return 0

    def _blank(self, at: int) -> int:
        match = _BLANK.match(self._text, at)
        assert match is not None
        return match.end()

    def _expect(self, mark: str, at: int) -> int:
        if not self._text.startswith(mark, at):
            raise _LostError
        return at + len(mark)

    def _key(self, at: int) -> tuple[list[str], int]:
        self.last = at
        parts: list[str] = []
        while True:
            match = _KEY_PART.match(self._text, at)
            if match is None:
                raise _LostError
            parts.append(_plain(match[1]))
            at = match.end()
            if not self._text.startswith(".", at):
                return parts, at
            if len(parts) == MAX_DEPTH:
                raise BadValueError("this key has too many parts", "use the keys of the policy format")
            at += 1

    def _header(self, start: int) -> tuple[int, KeyPath]:
        double = self._text.startswith("[[", start)
        parts, at = self._key(start + 1 + double)
        at = self._expect("]]" if double else "]", at)
        self.headers.append((start, tuple(parts)))
        path: KeyPath = ()
        for number, part in enumerate(parts, 1):
            path += (part,)
            self.keys.setdefault(path, start)
            if double and number == len(parts):
                self._rows[path] = self._rows.get(path, 0) + 1
            if path in self._rows:
                path += (self._rows[path] - 1,)
                self.keys.setdefault(path, start)
        return at, path

    def _pair(self, start: int, table: KeyPath, depth: int) -> int:
        parts, at = self._key(start)
        path = table
        for part in parts:
            path += (part,)
            self.keys.setdefault(path, start)
        return self._value(self._blank(self._expect("=", at)), path, depth)

    def _value(self, at: int, path: KeyPath, depth: int) -> int:
        self.last = at
        self.values.setdefault(path, at)
        mark = self._text[at : at + 1]
        if mark in _ENCLOSED:
            if depth == MAX_DEPTH:
                raise BadValueError("this is nested too deeply", "write a string or a list of strings")
            return _ENCLOSED[mark](self, at + 1, path, depth + 1)
        match = (_STRING if mark in {'"', "'"} else _SCALAR).match(self._text, at)
        if match is None:
            raise _LostError
        if mark not in {'"', "'"} and len(match[0].rstrip()) > _MAX_SCALAR:
            raise BadValueError("this value is too long to be a number", 'put text in "quotes"')
        return match.end()

    def _array(self, at: int, path: KeyPath, depth: int) -> int:
        index = 0
        at = self._blank(at)
        while not self._text.startswith("]", at):
            at = self._blank(self._value(at, (*path, index), depth))
            index += 1
            if not self._text.startswith("]", at):
                at = self._blank(self._expect(",", at))
        return at + 1

    def _inline_table(self, at: int, path: KeyPath, depth: int) -> int:
        at = self._blank(at)
        while not self._text.startswith("}", at):
            at = self._blank(self._pair(at, path, depth))
            if not self._text.startswith("}", at):
                at = self._blank(self._expect(",", at))
        return at + 1


_ENCLOSED = {"[": Positions._array, "{": Positions._inline_table}


def _plain(key: str) -> str:
    """The text of a key that may be in quotes."""
    if key[0] not in {'"', "'"}:
        return key
    if key[0] == "'" or "\\" not in key:
        return key[1:-1]
    try:
        return next(iter(tomllib.loads(f"{key}=0")))
    except tomllib.TOMLDecodeError:
        raise _LostError from None
