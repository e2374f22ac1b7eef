"""Hold rules: they send the packets that must wait to the queue.

Which packets these are is the answer of the eBPF programs of kernel/hold.bpf.c, asked for each packet by netfilter's
bpf match. That match and the NFQUEUE target are reached through iptables, by whichever of its two back ends this kernel
has; both are tried. A kernel with neither but with nftables' own ``queue`` statement gets rules without the match: then
each opening packet goes through user space, decided or not.

Each rule is in a chain of its own, to which the first rule of OUTPUT or INPUT leads. So it can be told apart, moved and
removed by its chain's name alone: with the bpf match, iptables compares file descriptors, which differ from run to run.
Others change rules too, and may flush ours or put theirs before them: `standing` tells, `put_back` repairs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tidewaiter.host import namespace, redirect


class Method(StrEnum):
    """How hold rules are installed, in the order in which they are tried."""

    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"
    NFT_QUEUE = "nft"


class HoldError(RuntimeError):
    """No method works here; the message names each with its reason."""


class Chain(NamedTuple):
    """A chain of our own, to which the first rule of one of netfilter's leads; its rules, each with its program.

    ``hook`` "": a rule of another chain of ours leads there, which comes before this one.
    """

    table: str
    hook: str
    own: str
    rules: tuple[tuple[Path | None, str], ...]

    @property
    def jump(self) -> str:
        """The rule that leads there, without what is to be done with it."""
        return f"{self.hook} -j {self.own}"


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

    @property
    def through(self) -> Path:
        """The program for what is forwarded, beside that for what goes out."""
        return self._beside("through")

    @property
    def late(self) -> Path:
        """The program that says which of what comes in, and would have to wait, is dropped since too much waits."""
        return self._beside("late")

    def _beside(self, way: str) -> Path:
        return self.out.with_name(f"{self.out.name.removesuffix('_out')}_{way}")

    @property
    def tag(self) -> str:
        """What tells our chains and tables from those of any other firewall, one before this one included."""
        return f"{crc32(str(self.out).encode()):08x}"

    @property
    def chains(self) -> tuple[Chain, ...]:
        """All of it, for iptables."""
        bypass = " --queue-bypass" if self.fail_open else ""
        queue = f"NFQUEUE --queue-num {self.queue}{bypass}"
        ask = f"{_CHAIN}{self.tag}_ASK"
        made = [
            Chain(
                "mangle",
                hook,
                f"{_CHAIN}{self.tag}_{way}",
                ((pin, f"-m bpf --object-pinned {pin} -j {target}"),),
            )
            for hook, way, pin, target in (
                ("OUTPUT", "OUT", self.out, queue),
                ("INPUT", "IN", self.into, ask),
                ("FORWARD", "THROUGH", self.through, queue),
            )
        ]
        late = self.late, f"-m bpf --object-pinned {self.late} -j DROP"
        made.append(Chain("mangle", "", ask, (late, (None, f"-j {queue}"))))
        redirects = redirect.rules(self.out, self.redirect)
        if redirects:
            made.append(Chain("nat", "OUTPUT", f"{_CHAIN}{self.tag}_NAT", redirects))
        return tuple(made)

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of iptables in which our chains are."""
        return tuple(dict.fromkeys(chain.table for chain in self.chains))

    @property
    def table(self) -> str:
        """The table of nftables, where iptables cannot be used."""
        return f"inet {_TABLE}_{self.tag}"

    def transaction(self, table: str, there: list[str]) -> str:
        """For iptables-restore: with ``there`` in the table, all our rules stand first, once."""
        lines = [f":{chain.own} - [0:0]" for chain in self._in(table)]
        for chain in self._in(table):
            lines += [f"-A {chain.own} {rule}" for _, rule in chain.rules]
            if chain.hook:
                lines += [f"-D {chain.jump}"] * there.count(f"-A {chain.jump}")
                lines.append(f"-I {chain.hook} 1 -j {chain.own}")
        return "\n".join([f"*{table}", *lines, "COMMIT", ""])

    def removal(self, table: str, there: list[str]) -> str:
        """For iptables-restore: with ``there`` in the table, nothing of ours is left. "" when nothing is."""
        lines = []
        for chain in self._in(table):
            lines += [f"-D {chain.jump}"] * (there.count(f"-A {chain.jump}") if chain.hook else 0)
            if any(line.startswith(f":{chain.own} ") for line in there):
                lines += [f"-F {chain.own}", f"-X {chain.own}"]
        return "\n".join([f"*{table}", *lines, "COMMIT", ""]) if lines else ""

    def _in(self, table: str) -> list[Chain]:
        return [chain for chain in self.chains if chain.table == table]

    def nft(self) -> str:
        """For nft: our table anew, in one transaction."""
        flags = " flags bypass" if self.fail_open else ""
        opening = "tcp flags & (syn | ack) == syn", "meta l4proto udp ct state new"
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority mangle; "
            + "; ".join(f"{match} queue{flags} to {self.queue}" for match in opening)
            + "; }; "
            for hook in ("output", "input")
        )
        return f"{self.nft_removal()}; table {self.table} {{ {chains}}}"

    def nft_removal(self) -> str:
        """For nft: our table is gone, whether it was there or not."""
        return f"add table {self.table}; delete table {self.table}"


class Standing(StrEnum):
    """How hold rules stand."""

    FIRST = "first"
    BEHIND = "behind others, or twice"
    GONE = "gone"


_TABLE = "tidewaiter"
_CHAIN = "TIDEWAITER_"
_NFT_RULES = 4


def install(rules: HoldRules, announce: Callable[[Method], object] = lambda _: None) -> Method:
    """Installs the rules by the first method that works here; each is announced before it is tried.

    Raises HoldError, and then nothing is left.
    """
    reasons = []
    for method in Method:
        announce(method)
        try:
            put_back(rules, method)
        except HoldError as error:
            remove(rules, method)
            reasons.append(f"{method}: {error}")
        except BaseException:
            remove(rules, method)
            raise
        else:
            return method
    raise HoldError(f"hold rules cannot be installed ({'; '.join(reasons)}); apt install iptables")


def remove(rules: HoldRules, method: Method) -> list[str]:
    """Removes the rules, those of them that are there; returns what could not be removed, a sentence each."""
    try:
        if method is Method.NFT_QUEUE:
            _demand(rules.where, ["nft", rules.nft_removal()])
            return []
    except HoldError as error:
        return [str(error)]
    failures = []
    for family, table in product(_FAMILIES, rules.tables):
        try:
            text = rules.removal(table, _saved(rules.where, family, method, table))
            if text:
                _restore(rules.where, family, method, text)
        except HoldError as error:
            failures.append(str(error))
    return failures


def standing(rules: HoldRules, method: Method) -> Standing:
    """Whether all rules are there, once, and before those of others. Runs programs: milliseconds. Raises HoldError."""
    if method is Method.NFT_QUEUE:
        status, said, _ = _run(rules.where, ["nft", "list", "table", *rules.table.split()])
        return Standing.FIRST if status == 0 and said.count("queue") >= _NFT_RULES else Standing.GONE
    found = [
        _stands(chain, there)
        for family, table in product(_FAMILIES, rules.tables)
        for there in [_saved(rules.where, family, method, table)]
        for chain in rules.chains
        if chain.table == table
    ]
    return max(found, key=list(Standing).index)


def put_back(rules: HoldRules, method: Method) -> None:
    """Puts all rules to the first places, in one transaction for each family and table: never twice, never half.

    Raises HoldError.
    """
    if method is Method.NFT_QUEUE:
        if rules.redirect:
            raise HoldError("redirects need iptables")
        _demand(rules.where, ["nft", rules.nft()])
        return
    for family, table in product(_FAMILIES, rules.tables):
        there = _saved(rules.where, family, method, table)
        _restore(rules.where, family, method, rules.transaction(table, there))


_FAMILIES = ("iptables", "ip6tables")


def _stands(chain: Chain, there: list[str]) -> Standing:
    held = [line for line in there if line.startswith(f"-A {chain.own} ")]
    jumps = [line for line in there if line.startswith(f"-A {chain.hook} ")]
    ours = f"-A {chain.jump}"
    complete = [
        pin is None or f"--object-pinned {pin} " in line
        for line, (pin, _) in zip(held, chain.rules, strict=False)
    ]
    if (chain.hook and ours not in jumps) or len(held) != len(chain.rules) or not all(complete):
        return Standing.GONE
    if not chain.hook:
        return Standing.FIRST
    # another firewall of ours has its rules there too, and neither minds the other
    others = [line for line in jumps if not line.startswith(f"-A {chain.hook} -j {_CHAIN}")]
    first = not others or jumps.index(ours) < jumps.index(others[0])
    return Standing.FIRST if first and jumps.count(ours) == 1 else Standing.BEHIND


def _saved(where: Path | None, family: str, method: Method, table: str) -> list[str]:
    """The lines of a table."""
    return _demand(where, [_program(family, method, "save"), "-t", table]).splitlines()


def _restore(where: Path | None, family: str, method: Method, text: str) -> None:
    _demand(where, [_program(family, method, "restore"), "-w", "5", "--noflush"], text)


def _program(family: str, method: Method, what: str) -> str:
    return f"{family}{method.value.removeprefix('iptables')}-{what}"


def _demand(where: Path | None, command: list[str], text: str = "") -> str:
    status, said, reason = _run(where, command, text)
    if status != 0:
        raise HoldError(reason)
    return said


def _run(where: Path | None, command: list[str], text: str = "") -> tuple[int, str, str]:
    """The status of a command, -1 if it could not be run, what it printed, and why it failed in a line."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)

    try:
        done = namespace.run_inside(where, run) if where else run()
    except FileNotFoundError:
        return -1, "", f"{command[0]} is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, "", str(error)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("#")]
    return (
        done.returncode,
        done.stdout,
        lines[0] if lines else f"{command[0]} ended with status {done.returncode}",
    )
