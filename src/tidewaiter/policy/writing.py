"""A policy as TOML text, from the words of `tidewaiter.policy.spelling` or of an import."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 100


def toml_value(value: object) -> str:
    """One value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return str(value)


def toml_policy(words: Mapping[str, Any], comments: Mapping[str, str] | None = None, title: str = "") -> str:
    """A document of words as text; ``comments`` are lines above rules, by the rules' names."""
    return "\n".join(_lines(words, comments or {}, title)) + "\n"


def _lines(words: Mapping[str, Any], comments: Mapping[str, str], title: str) -> Iterator[str]:
    if title:
        yield f"# {_one_line(title)}"
    yield f"version = {words.get('version', 1)}"
    for key in ("default", "geography"):
        if words.get(key):
            yield f"\n[{key}]"
            yield from _pairs(words[key])
    for key in ("group", "list", "network"):
        for name, table in words.get(key, {}).items():
            yield f"\n[{key}.{_key(name)}]"
            yield from _pairs(table)
    for rule in words.get("rule", ()):
        yield ""
        if comment := comments.get(rule.get("name", "")):
            yield f"# {_one_line(comment)}"
        yield "[[rule]]"
        yield from _pairs(rule)


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if key == "not" and isinstance(value, Mapping):
            for inner, one in value.items():
                yield from _pair(f"not.{_key(inner)}", one)
        else:
            yield from _pair(_key(key), value)


def _pair(key: str, value: object) -> Iterator[str]:
    line = f"{key} = {toml_value(value)}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        yield line
        return
    yield f"{key} = ["
    yield from (f"    {toml_value(one)}," for one in value)
    yield "]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_value(key)


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
