"""What decides where a policy does not say it itself: the Python functions that its rules name.

A rule with ``verdict = "python: module.function"`` has its connections decided by that function. It is called with the
`Connection` in the thread of the firewall, like ``decide``, and returns a `Verdict`, or None to ask whoever is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module

from tidewaiter.model.connection import Connection
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.rule import Answer

log = logging.getLogger("tidewaiter")

Function = Callable[[Connection], Verdict | None]

PERMANENT = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.DROP: Verdict.PERMANENT_DROP,
    Answer.LIMIT: Verdict.PERMANENT_ACCEPT,  # what is limited passes: flow control slows it down
    Answer.REDIRECT_NAME_SERVER: Verdict.REDIRECT_NAME_SERVER,
    Answer.REDIRECT_TUNNEL: Verdict.REDIRECT_TUNNEL,
    Answer.REDIRECT_SPLIT_TUNNEL: Verdict.REDIRECT_SPLIT_TUNNEL,
}
"""The answers of rules that decide for good."""


def functions_of(policy: Policy) -> dict[str, Function]:
    """The functions that a policy names. Raises PolicyError, at the rule, for one that is not there."""
    found: dict[str, Function] = {}
    python = Answer.PYTHON  # to look it up takes as long as all the rest, rule by rule
    for rule in [one for one in policy.rules if one.answer is python]:
        if rule.function not in found:
            module, _, name = rule.function.rpartition(".")
            try:
                function = getattr(import_module(module), name)
            except (Exception, SystemExit) as error:  # whatever a module of the user's does
                said = " ".join(f"{type(error).__name__}: {error}".split())
                problem = f"the function {rule.function} cannot be imported ({said})"
                remedy = "write module.function, and have PYTHONPATH lead to the module"
                raise PolicyError(rule.file or "policy", max(rule.line, 1), 1, problem, remedy) from error
            if not callable(function):
                remedy = "name a function that takes a connection"
                raise PolicyError(
                    rule.file or "policy", max(rule.line, 1), 1, f"{rule.function} cannot be called", remedy
                )
            found[rule.function] = function
    return found


def call(function: Function, connection: Connection, otherwise: Verdict) -> Verdict | None:
    """What a function says; ``otherwise`` if it fails, which is logged."""
    try:
        verdict = function(connection)
        if verdict is not None and not isinstance(verdict, Verdict):
            raise TypeError(f"{verdict!r} is not a Verdict")
    except (Exception, SystemExit):  # a script that is not meant for this may end itself
        log.exception("deciding about %s failed: it is treated as if nobody had answered", connection.key)
        return otherwise
    return verdict
