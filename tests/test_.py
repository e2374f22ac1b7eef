"""The face of the package: names that are loaded when they are first used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import tidewaiter


def loaded_by(code: str) -> list[str]:
    """The modules of ours that a fresh interpreter has after ``code``."""
    script = (
        f"{code}\nimport json, sys\nprint(json.dumps([m for m in sys.modules if m.startswith('tidewaiter')]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", tidewaiter.__all__)
def test_a_public_name_is_what_its_home_defines(name: str) -> None:
    value = getattr(tidewaiter, name)
    assert value is getattr(import_module(value.__module__), name)
    assert value.__doc__
    assert vars(tidewaiter)[name] is value  # found without us the next time


def test_a_star_brings_the_public_names() -> None:
    brought: dict[str, object] = {}
    exec("from tidewaiter import *", brought)
    assert brought.keys() - {"__builtins__"} == set(tidewaiter.__all__)


def test_names_are_in_order_and_each_is_there_once() -> None:
    assert tidewaiter.__all__ == sorted(set(tidewaiter.__all__))


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'tidewaiter' has no attribute 'Wall'"):
        _ = tidewaiter.Wall


def test_importing_it_loads_nothing() -> None:
    assert loaded_by("import tidewaiter") == ["tidewaiter"]


def test_a_part_is_loaded_without_the_machine() -> None:
    loaded = loaded_by("from tidewaiter import Verdict")
    assert "tidewaiter.model.verdict" in loaded
    assert [name for name in loaded if name.split(".")[1:2] not in ([], ["model"])] == []


def test_a_policy_needs_no_kernel() -> None:
    loaded = loaded_by("from tidewaiter import Policy")
    assert [name for name in loaded if name.split(".")[1:2] in (["kernel"], ["host"], ["service"])] == []


def test_the_version_is_the_projects() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", tidewaiter.__version__)
    project = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text())["project"]
    assert tidewaiter.__version__ == project["version"]
