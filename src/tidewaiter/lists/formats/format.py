"""What a format of lists is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from re import compile as pattern

from tidewaiter.lists.entry import Entry

Parser = Callable[[str], Sequence[Entry]]
"""Says what a line lists; it may remember the lines before. Raises LineError, ListError."""

Shape = tuple[bytes, bytes, int, bool]
"""Text before a name, text behind it (a blank stands for any number), flags, whether one label will do."""

_WORD = pattern(r"\S+")


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its name, a maker of parsers, and what the native module reads of it.

    ``shapes`` are common lines with one name; their entries must be what the parser says. ``networks``: common
    lines are networks. ``comments`` make a line a comment as its first character, ``inline_comments`` begin one
    anywhere behind an entry. ``nearest``: of all that is said about a name and its zones, the nearest counts;
    otherwise exceptions win.
    """

    name: str
    parser: Callable[[], Parser]
    comments: str
    inline_comments: str
    shapes: tuple[Shape, ...] = ()
    networks: bool = False
    nearest: bool = False


def is_comment(line: str, comments: str) -> bool:
    """Whether a line is empty or a comment."""
    return not line.strip(" \t") or line[0] in comments


def words(line: str, comments: str) -> Iterator[tuple[int, str]]:
    """The words of a line without its comment, each with its column (from 1)."""
    ends = [at for at in map(line.find, comments) if at >= 0]
    for found in _WORD.finditer(line[: min(ends)] if ends else line):
        yield found.start() + 1, found.group()
