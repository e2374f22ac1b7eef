"""Hold rules: they send the packets that must wait to the queue.

Which packets these are is the answer of the eBPF programs of kernel/hold.bpf.c, asked for each packet by netfilter's
bpf match. That match and the NFQUEUE target are reached through iptables, by whichever of its two back ends this kernel
has; both are tried. A kernel with neither but with nftables' own ``queue`` statement gets rules
without the match: then each opening packet goes through user space, decided or not.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tidewaiter.host import namespace, redirect


class Method(StrEnum):
    """How hold rules are installed, in the order in which they are tried."""

    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"
    NFT_QUEUE = "nft"


class HoldError(RuntimeError):
    """No method works here; the message names each with its reason."""


@dataclass(frozen=True, slots=True)
class HoldRules:
    """What to hold in one network namespace (None: our own): the pinned programs, the queue, and what the
    kernel does with held packets when nobody serves the queue. ``redirect``: the ports of host/redirect.py, or none.
    """

    where: Path | None
    out: Path
    into: Path
    queue: int
    fail_open: bool
    redirect: tuple[int, ...] = ()

    def commands(self, method: Method, *, add: bool) -> list[list[str]]:
        """The commands that install or remove the rules."""
        if method is Method.NFT_QUEUE:
            table = f"inet {_TABLE}_{self.queue}"  # made before it is deleted: so it may be gone already
            return [["nft", self._nft() if add else f"add table {table}; delete table {table}"]]
        suffix = method.value.removeprefix("iptables")
        return [
            [f"{program}{suffix}", "-w", "5", "-t", "mangle", *self._rule(chain, pin, add=add)]
            for program in ("iptables", "ip6tables")
            for chain, pin in (("OUTPUT", self.out), ("INPUT", self.into))
        ] + [
            [
                f"{program}{suffix}",
                "-w",
                "5",
                "-t",
                "nat",
                *(["-I", "OUTPUT", "1"] if add else ["-D", "OUTPUT"]),
                *rule,
            ]
            for program in ("iptables", "ip6tables")
            for rule in redirect.rules(self.out, self.redirect)
        ]

    def _rule(self, chain: str, pin: Path, *, add: bool) -> list[str]:
        place = ["-I", chain, "1"] if add else ["-D", chain]
        bypass = ["--queue-bypass"] if self.fail_open else []
        match = ["-m", "bpf", "--object-pinned", str(pin)]
        return [*place, *match, "-j", "NFQUEUE", "--queue-num", str(self.queue), *bypass]

    def _nft(self) -> str:
        flags = " flags bypass" if self.fail_open else ""
        opening = "tcp flags & (syn | ack) == syn", "meta l4proto udp ct state new"
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority mangle; "
            + "; ".join(f"{match} queue{flags} to {self.queue}" for match in opening)
            + "; }; "
            for hook in ("output", "input")
        )
        return f"table inet {_TABLE}_{self.queue} {{ {chains}}}"


_TABLE = "tidewaiter"
_NOT_THERE = 1  # the status of iptables -D without such a rule or chain; what else fails has higher ones


def install(rules: HoldRules, announce: Callable[[Method], object] = lambda _: None) -> Method:
    """Installs the rules by the first method that works here; each is announced before it is tried.

    Raises HoldError, and then nothing is left.
    """
    reasons = []
    for method in Method:
        announce(method)
        reason = _run_all(rules, method)
        if reason is None:
            return method
        reasons.append(f"{method}: {reason}")
    raise HoldError(f"hold rules cannot be installed ({'; '.join(reasons)}); apt install iptables")


def remove(rules: HoldRules, method: Method) -> list[str]:
    """Removes the rules, those of them that are there; returns what could not be removed, a sentence each."""
    failures = []
    for command in rules.commands(method, add=False):
        status, reason = _run(rules.where, command)
        if status not in (0, _NOT_THERE):
            failures.append(f"{' '.join(command)}: {reason}")
    return failures


def _run_all(rules: HoldRules, method: Method) -> str | None:
    if rules.redirect and method is Method.NFT_QUEUE:
        return "redirects need iptables"
    undo: list[list[str]] = []
    inverses = rules.commands(method, add=False)
    try:
        for command, inverse in zip(rules.commands(method, add=True), inverses, strict=True):
            undo.append(inverse)
            status, reason = _run(rules.where, command)
            if status != 0:
                return reason
        undo.clear()
        return None
    finally:
        for inverse in reversed(undo):
            _run(rules.where, inverse)


def _run(where: Path | None, command: list[str]) -> tuple[int, str]:
    """The status of a command, -1 if it could not be run, and why it failed in a line."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    try:
        done = namespace.run_inside(where, run) if where else run()
    except FileNotFoundError:
        return -1, f"{command[0]} is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("#")]
    return done.returncode, lines[0] if lines else f"status {done.returncode}"
