"""Rules of OpenSnitch in the words of ours, with the same decisions.

There, rules are walked in the order of their names. The first that denies, rejects or has precedence ends the walk; if
none does, the **last** that allows wins. Here the first match wins, so those that end the walk come first, in the
order of their names, and those that only allow come behind them, in the opposite order. What no rule decides is asked
about, as there. Rules are about connections that this host begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from math import ceil
from typing import Any

from tidewaiter.policy.imported import CannotCarryError, Imported
from tidewaiter.policy.opensnitch_operators import Conditions, Files, Operator, conditions
from tidewaiter.policy.patterns import BadValueError

_ACTIONS = {"allow": "accept", "deny": "drop", "reject": "block"}
_PART = re.compile(r"([0-9]{1,19}\.?[0-9]{0,19}|\.[0-9]{1,19})(h|ms|m|s|us|µs|μs|ns)")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_LONGEST = 2**63 / 1e9  # seconds: Go counts nanoseconds in 64 bits
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_MAX_DEPTH = 8

Rule = dict[str, Any]


def import_opensnitch(files: Mapping[str, bytes], read: Files, until: Callable[[int], object]) -> Imported:
    """The policy of a directory of rules: file name to content.

    ``read`` gives the files of a directory that a rule names, ``until`` the moment so many seconds from now.
    """
    found = Imported("Imported from OpenSnitch.", {"out": "ask", "in": "accept"})
    rules: list[tuple[str, Rule]] = []
    for name, data in sorted(files.items()):
        try:
            rules.append((name, _load(data)))
        except CannotCarryError as error:
            found.refuse(name, error)
    rules.sort(key=lambda item: item[1]["name"])
    ending = [item for item in rules if item[1]["action"] != "allow" or item[1].get("precedence")]
    allowing = [item for item in reversed(rules) if item not in ending]
    for where, rule in (*ending, *allowing):
        try:
            _carry(found, where, rule, read, until)
        except (CannotCarryError, BadValueError) as error:
            found.refuse(where, error)
    return found


def _load(data: bytes) -> Rule:
    try:
        rule = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CannotCarryError(f"it is not JSON ({str(error)[:80]})") from None
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str) or not rule["name"]:
        raise CannotCarryError("it is not a rule with a name")
    if rule.get("action") not in _ACTIONS:
        raise CannotCarryError(f"its action is {rule.get('action')!r}, not allow, deny or reject")
    for key in ("created", "updated"):
        if rule.get(key) is not None and not _is_time(rule[key]):  # OpenSnitch does not load it either
            raise CannotCarryError(
                f"its {key} is {str(rule[key])[:40]!r}, not a time like 2026-01-01T00:00:00Z"
            )
    return rule


def _is_time(value: object) -> bool:
    """Whether it is a time as RFC 3339 section 5.6 writes it."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _carry(found: Imported, where: str, rule: Rule, read: Files, until: Callable[[int], object]) -> None:
    wanted: list[Conditions] = []
    lists = dict(found.lists)  # so that folders of one name get different names
    remarks: list[str] = []
    for operator in _operators(rule.get("operator"), 0):
        wanted += conditions(operator, read, lists, remarks)
    used = {one["list"]: lists[one["list"]] for one in wanted if "list" in one}
    name = found.name(rule["name"])
    words: Rule = {"name": name, "direction": "out"}
    also: list[Conditions] = []
    for one in wanted:
        if one.get("direction"):
            words["direction"] = one.pop("direction")
        place = next((table for table in (words, *also) if not table.keys() & one.keys()), None)
        if place is None:
            also.append(dict(one))
        else:
            place.update(one)
    if also:
        words["also"] = also
    words["verdict"] = _ACTIONS[rule["action"]]
    life = _life(rule.get("duration", "always"), until)
    if life is not None:
        words["until"] = life
    if rule.get("enabled") is False:
        words["enabled"] = False
    if rule.get("nolog"):
        words["log"] = False
    found.add([words], used)
    if isinstance(rule.get("description"), str) and rule["description"].strip():
        found.comments[name] = rule["description"]
    ends = (
        "decides at once" if rule["action"] != "allow" or rule.get("precedence") else "allows unless refused"
    )
    said = ", ".join([f"rule {len(found.rules)} {name!r}", ends, *remarks])
    found.carried(where, said)


def _life(duration: object, until: Callable[[int], object]) -> object | None:
    if duration in ("always", "", None):
        return None
    if duration == "until restart":
        return "restart"
    if duration == "once":
        raise CannotCarryError("its duration is once, and that connection is over")
    if not isinstance(duration, str) or _PART.sub("", duration):
        raise CannotCarryError(f"its duration is {duration!r}")
    parts = _PART.findall(duration)
    seconds = ceil(round(sum(float(number) * _SECONDS.get(unit, 1e-6) for number, unit in parts), 9))
    if not 0 < seconds < _LONGEST:
        raise CannotCarryError(f"its duration is {duration!r}")
    return until(seconds)


def _operators(operator: object, depth: int) -> list[Operator]:
    """The operators that all have to match: of a list each one, however it is written down."""
    if not isinstance(operator, dict):
        raise CannotCarryError("it has no operator")
    if operator.get("type") != "list":
        return [Operator.of(operator)]
    inner = operator.get("list")
    if not inner and isinstance(operator.get("data"), str) and operator["data"].strip():
        try:
            inner = json.loads(operator["data"])  # older versions wrote the list into a text
        except (ValueError, RecursionError):
            raise CannotCarryError("the list in its data is not JSON") from None
    if not isinstance(inner, list) or not inner:
        raise CannotCarryError("its list of operators is empty")
    if depth == _MAX_DEPTH:
        raise CannotCarryError("its lists of operators are nested too deeply")
    return [one for each in inner for one in _operators(each, depth + 1)]
