"""Lines for people and for programs.

The firewall's thread hands lines over and goes on at once; they are printed by the thread that waits here, so a
terminal or a pipe that nobody reads cannot hold up a packet. What does not fit is counted and said.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.text import Text

from tidewaiter.cli.printable import printable
from tidewaiter.service.report import Line

log = logging.getLogger("tidewaiter")

_WAITING = 65536
STYLES = {
    "accept": "green",
    "block": "bold red",
    "drop": "red",
    "ask": "yellow",
    "undecided": "yellow",
    "redirect": "cyan",
}
_WRAPPED = frozenset({"notice", "stats"})  # said in full; of a connection, one line is enough
_ARROWS = {"out": "→", "in": "←", "forward": "↔"}


class Stream(Protocol):
    """What lines are written to: any text file will do."""

    def write(self, text: str, /) -> object:
        """One line or more."""

    def flush(self) -> None:
        """Lets the reader have them."""


class _Console(Console):
    """Leaves it to `Output` to end where nobody reads; rich would end the program on the spot."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def has_width(console: Console) -> bool:
    """Whether what is printed has to fit: on a terminal, or where COLUMNS says so; a file or a pipe has room."""
    return console.is_terminal or "COLUMNS" in os.environ


class Output:
    """Prints lines to ``stream``: as JSON, or as text that fits the terminal and respects NO_COLOR."""

    def __init__(self, *, as_json: bool, stream: Stream | None = None) -> None:
        self._json = as_json
        self._stream = stream or sys.stdout
        self._console = _Console(file=cast("IO[str]", self._stream), highlight=False, soft_wrap=False)
        self._fits = has_width(self._console)
        self._lines: deque[Line] = deque()
        self._there = threading.Event()
        self._dropped = 0
        self.broken = False

    def put(self, line: Line) -> None:
        """Hands a line over; never waits. Safe from any thread."""
        if len(self._lines) >= _WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        self._there.set()

    def wait(self, timeout: float) -> None:
        """Prints what is there, waiting at most ``timeout`` seconds for it."""
        self._there.wait(timeout)
        self.flush()

    def flush(self) -> None:
        """Prints everything that is there."""
        self._there.clear()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text = f"{dropped} lines were not printed: nobody read them in time"
            self._lines.append({"event": "notice", "time": time.time(), "text": text})
        try:
            while self._lines:
                self._print(self._lines.popleft())
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()
        except OSError as error:  # the disk is full, say
            self._give_up()
            log.error("nothing more can be printed: %s", error.strerror or error)  # noqa: TRY400

    def _give_up(self) -> None:
        self.broken = True
        _discard(self._stream)

    def _print(self, line: Line) -> None:
        if self._json:
            self._stream.write(json.dumps(line, ensure_ascii=True) + "\n")
            return
        text = render(line)
        if text is None:
            return
        if self._fits and line["event"] not in _WRAPPED:
            text.truncate(max(self._console.width, 40), overflow="ellipsis")
        self._console.print(text, soft_wrap=not self._fits)


def _discard(stream: Stream) -> None:
    """What is left in the buffer goes nowhere: else the interpreter tries once more at its end, and complains."""
    fileno = getattr(stream, "fileno", None)
    if fileno is None:
        return
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fileno())
        os.close(nowhere)


def render(line: Line) -> Text | None:
    """A line for people; None for what they need not see (a beginning, when the verdict follows at once)."""
    clock = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    kind = line["event"]
    text = Text().append(f"{clock} ", style="dim")
    if kind == "notice":
        return text.append(printable(line["text"]), style="bold")
    if kind == "stats":
        counters = ", ".join(
            f"{name} {value}" for name, value in line.items() if value and name not in ("event", "time")
        )
        return text.append(counters or "no packet was held, refused or lost")
    if kind == "connection" and line["verdict"] != "undecided":
        return None
    word = {"connection": "held", "end": "end"}.get(kind, line["verdict"])
    text.append(f"{word:<8}", style="dim" if kind == "end" else STYLES.get(line["verdict"], ""))
    text.append(f" {_who(line)} ", style="dim" if kind == "end" else "bold")
    text.append(
        f"{_ARROWS[line['direction']]} {_where(line)} {line['protocol']}",
        style="dim" if kind == "end" else "",
    )
    if kind == "end":
        counted = line["sent"] is not None
        totals = f"↑{size(line['sent'])} ↓{size(line['received'])} " if counted else ""
        return text.append(f"  {totals}in {line['duration']:.2f} s", style="dim")
    if line["rule"]:
        text.append(f"  {printable(line['rule'])}", style="dim")
    return text.append(f" · {line['tier']}", style="dim") if line["tier"] else text


def _where(line: dict[str, Any]) -> str:
    """The remote end, by its name if it has one, without the 0 that stands for no port; a packet socket's interface."""
    if not line["remote"]:
        return printable(line["local"])
    address, _, port = str(line["remote"]).rpartition(":")
    shown = printable(line["name"]) or address
    return f"{shown}:{port}" if port != "0" else shown.strip("[]")


def _who(line: dict[str, Any]) -> str:
    name = printable(line["program"].rpartition("/")[2]) or "unknown"
    return f"{name} ({line['pid']})" if line["pid"] else name


def size(count: int) -> str:
    """Bytes for people: ``1.5 MB`` (powers of ten, as networks count)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
