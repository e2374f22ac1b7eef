"""Whether this process may do what a firewall must, and if not, what it lacks."""

from __future__ import annotations

from pathlib import Path

# include/uapi/linux/capability.h; CAP_SYS_ADMIN is for entering namespaces (setns(2))
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def effective_capabilities() -> int:
    """The effective capabilities of this process, as bits (proc(5), CapEff)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def missing_privileges() -> str:
    """One sentence about what is missing, or ""."""
    have = effective_capabilities()
    missing = [name for name, bit in NEEDED.items() if not have >> bit & 1]
    if not missing:
        return ""
    return f"This process lacks {', '.join(missing)}: run it as root (sudo) to see live traffic."
