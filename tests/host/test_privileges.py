"""host/privileges.py: what this process lacks, by the capabilities that it has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tidewaiter.host import privileges
from tidewaiter.host.privileges import (
    NEEDED,
    PURPOSES,
    USEFUL,
    effective_capabilities,
    missing_privileges,
)

ALL = sum(1 << bit for bit in NEEDED.values())
HEADER = Path("/usr/include/linux/capability.h")
SCRIPT = "from tidewaiter.host.privileges import *; print(effective_capabilities(), missing_privileges())"


# Drops, then prints its own sets and those of a program that it starts, each set as an integer.
DROP = """
import json, os, subprocess, sys, threading
from tidewaiter.host.privileges import drop_privileges
drop_privileges(entering={entering})
print(json.dumps([open("/proc/self/status").read(), subprocess.check_output(["cat", "/proc/self/status"], text=True)]))
"""
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


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
    assert {name: int(numbers[name]) for name in NEEDED | USEFUL} == NEEDED | USEFUL


def test_each_has_its_purpose() -> None:
    assert PURPOSES.keys() == (NEEDED | USEFUL).keys()


def test_who_enters_no_other_namespace_needs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    without = ALL & ~(1 << NEEDED["CAP_SYS_ADMIN"])
    monkeypatch.setattr(privileges, "effective_capabilities", lambda: without)
    assert missing_privileges(entering=False) == ""
    assert "CAP_SYS_ADMIN" in missing_privileges()


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


def dropped(*prefix: str, entering: bool = False) -> list[dict[str, int]]:
    """The sets of a process that has given the rest away, and of a program that it has started."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", DROP.format(entering=entering)],
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [dict(line.split(":", 1) for line in text.splitlines()) for text in json.loads(done.stdout)]
    assert [status["NoNewPrivs"].strip() for status in statuses] == ["1", "1"]
    return [{name: int(status[name], 16) for name in SETS} for status in statuses]


def bits(*names: str) -> int:
    return sum(1 << (NEEDED | USEFUL)[name] for name in names)


@pytest.mark.live
@pytest.mark.parametrize("entering", [True, False])
def test_all_but_what_is_needed_is_given_away(entering: bool) -> None:
    everything = {*NEEDED, *USEFUL} - (set() if entering else {"CAP_SYS_ADMIN"})
    own, of_a_child = dropped(entering=entering)
    assert own == dict.fromkeys(SETS, bits(*everything))
    assert of_a_child == own


@pytest.mark.other_users
@pytest.mark.live
def test_what_was_not_there_is_not_gained(tmp_path: Path) -> None:
    """Without CAP_SETPCAP, and as an ordinary user with ambient capabilities: what is kept reaches what it starts."""
    prefix = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+net_admin,+bpf,+kill"
    own, of_a_child = dropped(*prefix.split(), "--ambient-caps=-all,+net_admin,+bpf,+kill")
    wanted = bits("CAP_NET_ADMIN", "CAP_BPF")
    for sets in (own, of_a_child):
        assert {name: sets[name] for name in SETS if name != "CapBnd"} == dict.fromkeys(
            ("CapInh", "CapPrm", "CapEff", "CapAmb"), wanted
        )


@pytest.mark.live
def test_what_is_given_away_stays_away_for_a_program_that_would_gain() -> None:
    """A program of root's: setpriv(1) may not take back what the bounding set has lost."""
    code = DROP.partition("print")[0].format(entering=False)
    code += 'sys.exit(subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode)'
    assert os.geteuid() == 0
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
