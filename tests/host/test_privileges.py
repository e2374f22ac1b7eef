"""host/privileges.py: what this process lacks, by the capabilities that it has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tidewaiter.host import privileges
from tidewaiter.host.privileges import NEEDED, effective_capabilities, missing_privileges

ALL = sum(1 << bit for bit in NEEDED.values())
HEADER = Path("/usr/include/linux/capability.h")
SCRIPT = "from tidewaiter.host.privileges import *; print(effective_capabilities(), missing_privileges())"


def with_capabilities(monkeypatch: pytest.MonkeyPatch, bits: int) -> str:
    monkeypatch.setattr(privileges, "effective_capabilities", lambda: bits)
    return missing_privileges()


@pytest.mark.parametrize("bits", [ALL, ALL | 1, (1 << 64) - 1])
def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    assert with_capabilities(monkeypatch, bits) == ""


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said = with_capabilities(monkeypatch, ALL & ~(1 << NEEDED[name]))
    assert said == f"This process lacks {name}: run it as root (sudo) to see live traffic."


def test_all_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = with_capabilities(monkeypatch, 0)
    assert re.findall(r"CAP_\w+", said) == list(NEEDED)
    assert said.count(".") == 1


@pytest.mark.skipif(not HEADER.exists(), reason="needs linux/capability.h (apt install linux-libc-dev)")
def test_the_numbers_are_the_kernels() -> None:
    numbers = dict(re.findall(r"^#define (CAP_\w+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE))
    assert {name: int(numbers[name]) for name in NEEDED} == NEEDED


def test_what_this_process_has() -> None:
    assert (effective_capabilities() & ALL == ALL) is (missing_privileges() == "")


@pytest.mark.live
def test_a_process_that_has_given_them_away() -> None:
    keep = ["--bounding-set=-all,+net_raw", "--inh-caps=-all"]
    done = subprocess.run(
        ["setpriv", *keep, sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    bits, _, said = done.stdout.strip().partition(" ")
    assert int(bits) == 1 << NEEDED["CAP_NET_RAW"]
    assert "CAP_NET_RAW" not in said
    assert said.startswith("This process lacks CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF: ")
