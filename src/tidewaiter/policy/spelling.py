"""The inverse of reading: the values of rules as the words of the policy file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tidewaiter.model.key import Direction, protocol_name
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer, PortSpan, Rule, Value
from tidewaiter.policy.settings import REFRESH
from tidewaiter.policy.words import PERIODS, WEEKDAYS

_ANY_VERSION = 2


def spelled(dimension: str, value: Value) -> str | int:  # noqa: PLR0911 # a table of kinds
    """One value of a rule as the policy file has it."""
    if value is None:
        return ""
    if isinstance(value, PortSpan):
        return _port(value)
    if isinstance(value, Direction):
        return value.word
    if dimension == "protocol":
        return f"{protocol_name(value[0])}{value[1]}" if protocol_name(value[0]).isalpha() else value[0]
    if dimension == "time":
        start, end = value[0], value[1] + 1
        return f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    if dimension == "weekday":
        return WEEKDAYS[value]
    if dimension == "asn":
        return f"AS{value}"
    if dimension in {"remote", "local"} and getattr(value, "num_addresses", 0) == 1:
        return str(value.network_address)
    return value if isinstance(value, int) else str(value)


def _port(span: PortSpan) -> str | int:
    if span.protocol is not None and (span.low, span.high) == (0, 65535):
        return protocol_name(span.protocol)
    if span.protocol is None and span.low == span.high:
        return span.low
    ports = f"{span.low}-{span.high}" if span.low != span.high else str(span.low)
    return ports if span.protocol is None else f"{ports}/{protocol_name(span.protocol)}"


def _period(seconds: int) -> str:
    unit = next(unit for unit, size in PERIODS.items() if seconds % size == 0)
    return f"{seconds // PERIODS[unit]}{unit}"


def spell_values(dimension: str, values: tuple[Any, ...]) -> Value:
    """The values of one dimension: a word or a list of words."""
    if dimension == "protocol":  # both versions of one protocol are one word
        numbers = [number for number, _ in values]
        values = tuple(
            dict.fromkeys((number, 0 if numbers.count(number) == _ANY_VERSION else v) for number, v in values)
        )
        found = [protocol_name(number) if not v else spelled(dimension, (number, v)) for number, v in values]
        found = [int(one) if isinstance(one, str) and one.isdecimal() else one for one in found]
    else:
        found = [spelled(dimension, value) for value in values]
    return found[0] if len(found) == 1 else found


def rule_words(rule: Rule) -> dict[str, Any]:
    """A rule as the table of its words."""
    words: dict[str, Any] = {"name": rule.name}
    also: list[dict[str, Any]] = [{} for _ in rule.also]
    for name, layer, negated, values in rule.conditions():
        if name == "until":
            continue
        table = also[layer - 1] if layer else words
        if negated:
            table = table.setdefault("not", {})
        table[name] = spell_values(name, tuple(sorted(values)) if name == "direction" else values)
    if also:
        words["also"] = also
    words["verdict"] = f"python: {rule.function}" if rule.answer is Answer.PYTHON else rule.answer.value
    if rule.answer is Answer.LIMIT:
        words["limit"] = {
            key: f"{rate} B/s" for key, rate in zip(("down", "up"), rule.limit, strict=True) if rate
        }
    if isinstance(rule.until, float):
        words["until"] = datetime.fromtimestamp(rule.until, UTC)
    elif rule.until:
        words["until"] = rule.until
    if rule.group:
        words["group"] = rule.group
    words |= {key: False for key in ("enabled", "log") if not getattr(rule, key)}
    return words


def policy_words(policy: Policy) -> dict[str, Any]:
    """A policy as the document of its words, whatever files it came from."""
    words: dict[str, Any] = {"version": 1}
    words["default"] = {direction.word: policy.default(direction).value for direction in Direction}
    for key, table in (
        ("group", {name: {"enabled": on} for name, on in policy.groups.items()}),
        (
            "list",
            {
                name: {
                    "path": list(one.paths),
                    "url": list(one.urls),
                    "format": one.format,
                    "refresh": "" if one.refresh == REFRESH else _period(one.refresh),
                }
                for name, one in policy.lists.items()
            },
        ),
        (
            "network",
            {
                name: {
                    "interface": list(one.interfaces),
                    "gateway": [spelled("remote", network) for network in one.gateways],
                    "wifi": list(one.wifi),
                }
                for name, one in policy.networks.items()
            },
        ),
        ("geography", dict(policy.geography)),
    ):
        if table:
            words[key] = {
                name: {field: value for field, value in one.items() if value not in ([], "")}
                if isinstance(one, dict)
                else one
                for name, one in table.items()
            }
    words["rule"] = [rule_words(rule) for rule in policy.rules]
    return words
