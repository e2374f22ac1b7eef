"""Patterns in texts: what lies below a directory or a zone, ``*`` patterns, regular expressions.

Expressions come from files that others write, and are held against texts that others choose. They are RE2's, which
runs in time linear to the text whatever the expression, has no back references, and refuses at once what it would need
more than `MEMORY` for. So no expression is catastrophic, and none has to be recognised as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

MEMORY = 1 << 20
"""Bytes that one compiled expression may take."""

MAX_LENGTH = 1000
"""Characters of a pattern."""

REGEX = "re:"
"""What a regular expression begins with."""

_SPECIAL = frozenset("\\.+*?()|[]{}^$")
_IN_PATH = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_IN_TEXT = {"**": ".*", "*": ".*", "?": "."}


class BadValueError(ValueError):
    """A word of the policy that cannot be used: what is wrong with it, and what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        """Both are parts of one sentence."""
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class Under(NamedTuple):
    """What lies below: ``/opt/app/`` a directory, ``.example.com`` a zone with the name of its top."""

    stem: str

    def matches(self, text: str) -> bool:
        """Whether a path or a name lies there."""
        if self.stem.endswith("/"):
            return text.startswith(self.stem)
        return text.endswith(self.stem) or text == self.stem[1:]

    def __str__(self) -> str:
        return self.stem


def directories(path: str) -> list[Under]:
    """Every directory that a path lies in."""
    return [Under(path[: at + 1]) for at, character in enumerate(path) if character == "/"]


def zones(name: str) -> list[Under]:
    """Every zone that a name lies in, its own first."""
    name = f".{name}"
    return [Under(name[at:]) for at, character in enumerate(name) if character == "."]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with ``*``, or a regular expression: as it was ``spelled``, and in RE2's syntax."""

    spelled: str
    expression: str

    def matches(self, text: str) -> bool:
        """Whether the text satisfies it, somewhere unless it is anchored."""
        return found(self.expression, text)

    def __str__(self) -> str:
        return self.spelled


class UnusableError(ValueError):
    """RE2 does not take an expression."""


def found(expression: str, text: str) -> bool:
    """Whether an expression that has been compiled before is found in a text."""
    return _compiled(expression).search(text.encode(errors="surrogateescape")) is not None


@lru_cache(maxsize=16384)
def _compiled(expression: str) -> Any:  # noqa: ANN401 # re2 has no types
    """RE2's program. Raises `UnusableError`. The library takes 3 MB, which policies without patterns do not need."""
    import re2  # type: ignore[import-untyped] # noqa: PLC0415 - it says why

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY
    options.dot_nl = True
    options.never_capture = True
    try:
        return re2.compile(expression.encode(errors="surrogateescape"), options)
    except re2.error as error:
        raise UnusableError(*error.args) from None


def regex(spelled: str) -> Pattern:
    """The pattern of ``re:EXPRESSION``. Raises `BadValueError`."""
    expression = spelled.removeprefix(REGEX)
    if len(expression) > MAX_LENGTH:
        raise BadValueError(f"the expression has more than {MAX_LENGTH} characters", "make several of it")
    try:
        _compiled(expression)
    except UnusableError as error:
        message = error.args[0] if error.args else error
        reason = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        shown = " ".join(reason.split())[:80]
        remedy = "write it in RE2's syntax, smaller, and without (?=…) or \\1"
        raise BadValueError(f"the expression cannot be used ({shown})", remedy) from None
    return Pattern(spelled, expression)


def glob(text: str, *, path: bool = False, fold: bool = False) -> Pattern:
    """A pattern with ``*``, ``?`` and ``[…]``. In a path, ``*`` and ``?`` stop at ``/``, and ``**`` does not.

    ``fold``: capitals are the same as small letters. Raises `BadValueError`.
    """
    if len(text) > MAX_LENGTH:
        raise BadValueError(f"the pattern has more than {MAX_LENGTH} characters", "make several of it")
    signs, out, at = _IN_PATH if path else _IN_TEXT, "(?i)^" if fold else "^", 0
    while at < len(text):
        two, one = text[at : at + 2], text[at]
        end = text.find("]", at + 2) if one == "[" else -1
        if two == "**" or one in signs:
            sign = two if two == "**" else one
            out += signs[sign]
            at += len(sign)
        elif end > 0:
            inner = text[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[^{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]"
            at = end + 1
        else:
            out += escape(one)
            at += 1
    expression = f"{out}$"
    try:
        _compiled(expression)
    except UnusableError:
        raise BadValueError("the pattern cannot be used", "look at what stands in its [brackets]") from None
    return Pattern(text, expression)


def escape(text: str) -> str:
    """An expression that matches this text and nothing else."""
    return "".join(f"\\{sign}" if sign in _SPECIAL else sign for sign in text)


def is_glob(text: str) -> bool:
    """Whether a text has signs of a pattern; a bracket alone is none, since paths have them."""
    return "*" in text or "?" in text
