"""Redirect rules: they send a flow to a port of this host instead.

Netfilter's address translation does it, asked once for each flow: by a rule for each target, whose eBPF program
(kernel/redirect.bpf.c) knows the verdict. The program's socket knows nothing of it: its peer is still the original
one, and replies come from there. What has such a verdict and is not translated does not get past the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tidewaiter.model.verdict import Verdict


class RedirectPorts(NamedTuple):
    """Where redirected connections go: ports of this host's loopback address, TCP and UDP alike.

    The defaults are those of the Portmaster kernel extension (docs/reference/wire.md).
    """

    name_server: int = 53
    tunnel: int = 717
    split_tunnel: int = 719


TARGETS = (Verdict.REDIRECT_NAME_SERVER, Verdict.REDIRECT_TUNNEL, Verdict.REDIRECT_SPLIT_TUNNEL)
"""The verdicts, in the order of their ports."""


def pin_of(hold_out: Path, target: Verdict) -> Path:
    """Where the program of a target is pinned: beside the hold program of its namespace."""
    return hold_out.with_name(f"{hold_out.name.removesuffix('_out')}_redirect_{target.value}")


def rules(hold_out: Path, ports: tuple[int, ...]) -> tuple[tuple[Path, str], ...]:
    """The rules of a namespace as iptables takes them, without table and place, each with its program."""
    return tuple(
        (pin, f"-p {protocol} -m bpf --object-pinned {pin} -j REDIRECT --to-ports {port}")
        for target, port in zip(TARGETS, ports, strict=False)
        for pin in [pin_of(hold_out, target)]
        for protocol in ("tcp", "udp")
    )


def check_ports(ports: RedirectPorts) -> RedirectPorts:
    """The ports themselves. Raises ValueError for one that is none, and for two targets at one."""
    for name, port in ports._asdict().items():
        if not 0 < port < 65536:
            raise ValueError(f"the redirect port {name} is {port}: a port is a number from 1 to 65535")
    if len(set(ports)) < len(ports):
        raise ValueError(f"two redirect targets share a port: {', '.join(map(str, ports))}")
    return ports
