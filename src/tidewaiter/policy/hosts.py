"""How the names of hosts in a policy become what connections are called."""

from __future__ import annotations

from tidewaiter.model.international import in_ascii
from tidewaiter.policy.patterns import REGEX, BadValueError, Pattern, Under, glob, is_glob, regex
from tidewaiter.policy.words import quoted


def parse_name(text: str) -> str | Pattern | Under:
    """A name, a zone (``.example.com``), a pattern with ``*``, or ``re:`` and an expression. Raises `BadValueError`."""
    if (is_glob(text) or text.startswith(REGEX)) and not text.isascii():
        problem = f"the pattern {quoted(text)} has letters beyond ASCII, which names do not have on the wire"
        raise BadValueError(problem, "write their parts as xn--, or the whole name without a pattern")
    if text.startswith(REGEX):
        return regex(text)
    plain = ascii_name(text)
    if not plain or not plain.isprintable() or any(sign in plain for sign in " /:@") or len(plain) > 300:
        remedy = "write it like example.com, .example.com, *.example.com or re:EXPRESSION"
        raise BadValueError(f"{quoted(text)} is not a name", remedy)
    if is_glob(plain):
        return glob(plain, fold=True)
    return Under(plain) if plain.startswith(".") else plain


def ascii_name(text: str) -> str:
    """A name as it travels: small letters, those of other scripts as ``xn--``. Raises `BadValueError`."""
    if text.isascii() or len(text) > 300:
        return text.rstrip(".").lower()
    try:
        return in_ascii(text).rstrip(".").lower()
    except ValueError as error:
        raise BadValueError(f"{quoted(text)} is no name ({str(error)[:80]})", "write it as xn--") from None
