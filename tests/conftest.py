"""What every test gets: the gate of the live tests, hypothesis profiles, and the list of what was left out.

A test marked ``live`` needs root and the live kernel; ``other_users`` and ``own_mounts`` need what a chroot may not
have. Where it cannot be had the test is left out, and the end of the run says so; with ``TIDEWAITER_DEMAND=1`` (as
.ci/run sets it) it fails instead.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

DEMAND = os.environ.get("TIDEWAITER_DEMAND") == "1"
FUZZ = int(os.environ.get("TIDEWAITER_FUZZ", "1"))  # times as many examples: ./dev fuzz
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}  # linux/capability.h; the second holds CAP_BPF
BPF_PROG_TYPE_CGROUP_SKB = 8  # linux/bpf.h

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("fuzz", deadline=None, max_examples=100 * FUZZ, print_blob=True)
settings.load_profile("fuzz" if FUZZ > 1 else "ci" if DEMAND or "CI" in os.environ else "default")


def missing_capabilities(status: str) -> list[str]:
    """The names of `CAPABILITIES` that the text of a /proc/PID/status does not hold."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(lines["CapEff"], 16)
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


def bpf_works() -> bool:
    """Whether the kernel loads an eBPF program for a cgroup, by trying (libbpf 1.0, libbpf.h)."""
    try:
        libbpf = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return False
    return bool(libbpf.libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_CGROUP_SKB, None) == 1)


@cache
def missing_for_live() -> str:
    """Why live tests cannot run here, in a few words; "" when they can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := missing_capabilities(Path("/proc/self/status").read_text()):
        return f"needs {' and '.join(missing)}"
    if not any(line.split()[2] == "cgroup2" for line in Path("/proc/mounts").read_text().splitlines()):
        return "needs a mounted cgroup v2 hierarchy"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "needs a kernel with BTF (/sys/kernel/btf/vmlinux)"
    if not bpf_works():
        return "needs libbpf.so.1 and a kernel that loads eBPF programs"
    return ""


@cache
def missing_for_other_users() -> str:
    """Why nobody else can run this Python here; "" when they can."""
    command = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        sys.executable,
        "-c",
        "import ctypes",
    ]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    return "needs a root directory that is open to other users" if done.returncode else ""


def missing_for_mounts() -> str:
    """Why a mount namespace cannot be made private here; "" when it can."""
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return "" if "/" in mounted else "needs a root directory that is a mount point: this is a chroot"


NEEDS: dict[str, Callable[[], str]] = {
    "live": missing_for_live,
    "other_users": missing_for_other_users,
    "own_mounts": missing_for_mounts,
}


@pytest.hookimpl(tryfirst=True)  # before any fixture of the test
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out a test that cannot run here, or fails it where everything is demanded."""
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) is None or not (reason := missing()):
            continue
        if DEMAND:
            pytest.fail(f"a {marker} test cannot run here: it {reason}", pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists each test file of which something was left out, how many tests, and why."""
    left_out: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        left_out[report.nodeid.split("::")[0], reason.removeprefix("Skipped: ")] += 1
    if not left_out:
        return
    terminalreporter.section("left out", yellow=True)
    for (file, reason), count in sorted(left_out.items()):
        terminalreporter.line(f"{file}: {count} {'test' if count == 1 else 'tests'}: {reason}")
