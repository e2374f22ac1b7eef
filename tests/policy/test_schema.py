"""The schema for editors: it takes what the reader takes, and refuses what editors are to point at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli

from tidewaiter.policy import Policy
from tidewaiter.policy.dimensions import DIMENSIONS
from tidewaiter.policy.schema import schema

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema())
TEXTS = [
    (ROOT / "examples/policy.toml").read_text(),
    *re.findall(r"```toml\n(.*?)```", (ROOT / "docs/reference/policy.md").read_text(), re.DOTALL),
]


def wrong(document: dict[str, Any]) -> bool:
    return not VALIDATOR.is_valid(document)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("text", [text for text in TEXTS if text.startswith(("version", "#"))])
def test_what_the_documents_show_is_valid(text: str) -> None:
    VALIDATOR.validate(tomli.loads(text))


@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_example_is_valid_and_can_be_read(name: str) -> None:
    for example in DIMENSIONS[name].examples:
        words = {"version": 1, "rule": [{name: example, "verdict": "drop"}]}
        VALIDATOR.validate(words)
        if name in {"user", "user_group"} and isinstance(example, str):
            continue  # nobody of that name need be here
        shown = f'"{example}"' if isinstance(example, str) else example
        tables = "[list.ads]\npath = 'a'\n[network.home]\ninterface = 'x'\n"
        policy = Policy.parse(f"version = 1\n{tables}[[rule]]\n{name} = {shown}\nverdict = 'drop'\n")
        assert next(policy.rules[0].conditions()).dimension == name


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 2},
        {"version": 1, "rules": []},
        {"version": 1, "default": {"out": "limit"}},
        {"version": 1, "rule": [{}]},
        {"version": 1, "rule": [{"verdict": "deny"}]},
        {"version": 1, "rule": [{"verdict": "drop", "port": []}]},
        {"version": 1, "rule": [{"verdict": "drop", "port": 4.5}]},
        {"version": 1, "rule": [{"verdict": "drop", "progam": "/x"}]},
        {"version": 1, "rule": [{"verdict": "drop", "not": {"not": {}}}]},
        {"version": 1, "rule": [{"verdict": "limit", "limit": "fast"}]},
        {"version": 1, "network": {"home": {"gate": "x"}}},
        {"version": 1, "list": {"ads": {"path": "x", "format": "csv"}}},
        {"version": 1, "list": {"ads": {"url": "ftp://x"}}},
        {"version": 1, "list": {"ads": {"url": "https://x", "refresh": "often"}}},
    ],
)
def test_what_is_wrong_is_refused(document: dict[str, Any]) -> None:
    assert wrong(document)


@pytest.mark.parametrize("text", ["include = []", '[list.ads]\npath = []\nurl = "http://ads.example/"'])
def test_an_empty_list_of_files_is_none(text: str) -> None:
    text = f"version = 1\n{text}\n"
    VALIDATOR.validate(tomli.loads(text))
    Policy.parse(text)
