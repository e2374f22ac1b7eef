"""The JSON schema of policy files, made from the table of dimensions: editors complete and check by it."""

from __future__ import annotations

from typing import Any

from tidewaiter.policy.dimensions import DIMENSIONS, Dimension
from tidewaiter.policy.reader import ANSWERS, DEFAULTS, TOP_KEYS
from tidewaiter.policy.settings import LIST_FORMATS
from tidewaiter.policy.words import DURATION, LIVES

_RATE = {"type": "string", "pattern": "^[0-9]+([.][0-9]+)? ?[kMG]?(B|bit)/s$"}
_TEXT = {"type": "string", "minLength": 1}
_JSON_TYPES = {str: "string", int: "integer"}


def schema() -> dict[str, Any]:
    """A schema of JSON Schema draft 2020-12 for the document that a policy file holds."""
    dimensions = {name: _dimension(one) for name, one in DIMENSIONS.items()}
    conditions = _table(dimensions, "what a connection must not be like")
    also = _table(dimensions | {"not": conditions}, "what else has to match")
    rule = _table(
        {
            "name": _TEXT | {"description": "another name than every other rule has"},
            **dimensions,
            "not": conditions,
            "also": {"anyOf": [also, {"type": "array", "items": also}]},
            "verdict": {
                "anyOf": [
                    {"enum": list(ANSWERS)},
                    {"type": "string", "pattern": "^python: *[A-Za-z_][\\w.]*$"},
                ]
            },
            "group": _TEXT,
            "enabled": {"type": "boolean"},
            "log": {"type": "boolean"},
            "until": {
                "anyOf": [
                    {"enum": list(LIVES)},
                    {"type": "string", "pattern": DURATION, "description": "a duration: 2h, 1d12h"},
                    {"description": "a date and time"},
                ]
            },
            "limit": {"anyOf": [_RATE, _table({"down": _RATE, "up": _RATE}, "bytes or bits a second")]},
        },
        "one rule; the first that matches decides",
    ) | {"required": ["verdict"]}
    tables = {
        "version": {"const": 1},
        "include": _some(_TEXT, 0),
        "default": _table(
            {word: {"enum": list(DEFAULTS)} for word in ("out", "in", "forward")}, "where no rule matches"
        ),
        "group": _named({"enabled": {"type": "boolean"}}),
        "list": _named(
            {
                "path": _some(_TEXT, 0),
                "url": _some(_TEXT | {"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"}, 0),
                "format": {"enum": list(LIST_FORMATS)},
                "refresh": {"type": "string", "pattern": "^[0-9]{1,6} ?[smhd]$"},
            }
        ),
        "network": _named({key: _some(_TEXT, 0) for key in ("interface", "gateway", "wifi")}),
        "geography": _table({"country": _TEXT, "asn": _TEXT}, "files in MaxMind's format"),
        "rule": {"type": "array", "items": rule},
    }
    assert tuple(tables) == TOP_KEYS
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A policy of Tidewaiter",
        **_table(tables, "docs/reference/policy.md"),
        "required": ["version"],
    }


def _dimension(one: Dimension) -> dict[str, Any]:
    kinds = [_JSON_TYPES[kind] for kind in one.types]
    described: dict[str, Any] = {"description": one.says}
    if one.examples:
        described["examples"] = list(one.examples)
    return _some({"type": kinds[0] if len(kinds) == 1 else kinds}) | described


def _some(element: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"anyOf": [element, {"type": "array", "items": element, "minItems": least}]}


def _table(properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": False,
    }


def _named(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _table(properties, "by its name")}
