"""host/hold.py: the commands as text, and both back ends of iptables in a namespace of a lab."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from livelab import HOLDS, holds_in, loaded, rules_in
from tidewaiter.host import hold, namespace
from tidewaiter.host.hold import HoldError, HoldRules, Method, Standing
from tidewaiter.host.install import FIRST_QUEUE
from tidewaiter.lab.world import World

RULES = HoldRules(None, Path("/p/1_out"), Path("/p/1_in"), 7300, fail_open=False)


@pytest.fixture(scope="module")
def rules(world: World) -> Iterator[HoldRules]:
    """Rules for programs that are really there."""
    with loaded() as kernel:
        out, into = kernel.pin_hold(1)
        yield HoldRules(world.client_namespace, out, into, FIRST_QUEUE, fail_open=False)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Method:
    """One method works, the others are not installed."""
    method: Method = request.param
    run = hold._run
    suffix = method.value.removeprefix("iptables")

    def run_some(where: Path | None, command: list[str], text: str = "") -> tuple[int, str, str]:
        there = command[0] == "nft" if method is Method.NFT_QUEUE else f"tables{suffix}-" in command[0]
        return run(where, command, text) if there else (-1, "", f"{command[0]} is not installed")

    monkeypatch.setattr(hold, "_run", run_some)
    return method


# --- the text --------------------------------------------------------------------------------------

OUT, INTO, THROUGH, QUEUE = (f"TIDEWAITER_{RULES.tag}_{way}" for way in ("OUT", "IN", "THROUGH", "ASK"))


def test_iptables_sends_what_its_program_says_to_the_queue() -> None:
    assert RULES.transaction("mangle", []).splitlines() == [
        "*mangle",
        *(f":{chain} - [0:0]" for chain in (OUT, INTO, THROUGH, QUEUE)),
        f"-A {OUT} -m bpf --object-pinned /p/1_out -j NFQUEUE --queue-num 7300",
        f"-I OUTPUT 1 -j {OUT}",
        f"-A {INTO} -m bpf --object-pinned /p/1_in -j {QUEUE}",
        f"-I INPUT 1 -j {INTO}",
        f"-A {THROUGH} -m bpf --object-pinned /p/1_through -j NFQUEUE --queue-num 7300",
        f"-I FORWARD 1 -j {THROUGH}",
        f"-A {QUEUE} -m bpf --object-pinned /p/1_late -j DROP",
        f"-A {QUEUE} -j NFQUEUE --queue-num 7300",
        "COMMIT",
    ]


def test_what_is_there_already_is_replaced_and_removed() -> None:
    there = [f":{OUT} - [0:0]", "-A OUTPUT -j ACCEPT", f"-A OUTPUT -j {OUT}", f"-A OUTPUT -j {OUT}"]
    assert (
        RULES.transaction("mangle", there).count(f"-D OUTPUT -j {OUT}\n-D OUTPUT -j {OUT}\n-I OUTPUT 1") == 1
    )
    assert RULES.removal("mangle", there).splitlines() == [
        "*mangle",
        *[f"-D OUTPUT -j {OUT}"] * 2,
        f"-F {OUT}",
        f"-X {OUT}",
        "COMMIT",
    ]
    assert RULES.removal("mangle", ["-A OUTPUT -j ACCEPT"]) == ""
    both = RULES.removal("mangle", [f":{chain} - [0:0]" for chain in (INTO, QUEUE)]).splitlines()
    assert both.index(f"-X {INTO}") < both.index(f"-F {QUEUE}"), (
        "a chain to which a rule leads cannot be removed"
    )


def test_redirects_have_a_chain_in_the_table_for_translation() -> None:
    rules = replace(RULES, redirect=(53, 717, 719))
    lines = rules.transaction("nat", []).splitlines()
    own = f"TIDEWAITER_{RULES.tag}_NAT"
    assert (lines[0], lines[1], lines[-2], lines[-1]) == (
        "*nat",
        f":{own} - [0:0]",
        f"-I OUTPUT 1 -j {own}",
        "COMMIT",
    )
    assert [line.split()[1] for line in lines[2:-2]] == [own] * 6
    assert (RULES.tables, rules.tables) == (("mangle",), ("mangle", "nat"))
    with pytest.raises(HoldError, match="redirects need iptables"):
        hold.put_back(rules, Method.NFT_QUEUE)


def test_chains_are_not_those_of_another_firewall() -> None:
    assert replace(RULES, out=Path("/p/2_out")).tag != RULES.tag == replace(RULES, fail_open=True).tag
    assert all(
        len(chain.own) < 29 for chain in replace(RULES, redirect=(1, 2, 3)).chains
    )  # XT_EXTENSION_MAXNAMELEN


def test_fail_open_lets_packets_pass_when_nobody_listens() -> None:
    opened = replace(RULES, fail_open=True)
    assert "bypass" not in RULES.transaction("mangle", []) + RULES.nft()
    assert (opened.transaction("mangle", []).count("--queue-bypass"), opened.nft().count("flags bypass")) == (
        3,
        4,
    )


def test_nft_holds_what_opens_a_connection() -> None:
    removal, _, table = RULES.nft().partition("; table ")
    assert removal == RULES.nft_removal()
    assert removal == f"add table inet tidewaiter_{RULES.tag}; delete table inet tidewaiter_{RULES.tag}"
    assert table.startswith(f"inet tidewaiter_{RULES.tag} {{")
    assert table.count("queue to 7300") == 4


# --- on the live kernel ----------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize("only", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
@pytest.mark.parametrize("fail_open", [False, True])
def test_each_back_end_installs_and_removes_all_of_it(
    only: Method, rules: HoldRules, fail_open: bool
) -> None:
    wanted = replace(rules, fail_open=fail_open)
    assert rules.where is not None
    announced: list[Method] = []
    assert hold.install(wanted, announced.append) is only
    assert announced == list(Method)[: list(Method).index(only) + 1]
    there = holds_in(rules.where)
    assert len(there) == HOLDS
    assert sum("bypass" in line for line in there) == HOLDS * fail_open
    assert hold.remove(wanted, only) == []
    assert rules_in(rules.where) == []
    assert hold.remove(wanted, only) == []  # what is gone already is no failure


@pytest.mark.live
def test_the_first_method_that_works_is_taken(rules: HoldRules) -> None:
    method = hold.install(rules)
    assert method in Method
    assert hold.remove(rules, method) == []


@pytest.mark.live
@pytest.mark.parametrize("only", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY], indirect=True)
def test_when_a_step_fails_those_before_it_are_undone(
    rules: HoldRules, only: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rules.where is not None
    run = hold._run

    def fails(where: Path | None, command: list[str], text: str = "") -> tuple[int, str, str]:
        if command[0].startswith("ip6tables") and "-I " in text:
            return 4, "", "no"
        return run(where, command, text)

    monkeypatch.setattr(hold, "_run", fails)
    with pytest.raises(HoldError, match=f"{only}: no"):
        hold.install(rules)
    assert rules_in(rules.where) == []


@pytest.mark.live
def test_the_text_for_nft_is_one_that_nft_takes(world: World) -> None:
    """Not every kernel has nftables' queue statement: another one stands in for it."""
    rules = RULES.nft().replace("queue to 7300", "counter")

    def nft(text: str) -> str:
        return namespace.run_inside(
            world.client_namespace,
            lambda: subprocess.run(["nft", text], capture_output=True, text=True, check=True).stdout,
        )

    for _ in range(2):
        nft(rules)
        there = nft(f"list table {RULES.table}")
        # as nft before 1.1 says it, and since; the latter says how many packets have been counted too
        flags = r"tcp flags (syn / syn,ack|& \(syn \| ack\) == syn) counter"
        assert len(re.findall(flags, there)) == len(re.findall("ct state new counter", there)) == 2
    for _ in range(2):
        nft(RULES.nft_removal())
    assert rules_in(world.client_namespace) == []


@pytest.mark.live
@pytest.mark.parametrize("only", [Method.NFT_QUEUE], indirect=True)
def test_nft_works_or_says_why_not(only: Method, rules: HoldRules) -> None:
    assert rules.where is not None
    try:
        assert hold.install(rules) is only
    except HoldError as error:
        assert "syntax error" not in str(error)
        assert "; nft: Error: " in str(error)
    assert hold.remove(rules, only) == []
    assert rules_in(rules.where) == []


@pytest.mark.live
def test_every_method_is_named_with_its_reason(world: World) -> None:
    nothing = replace(RULES, where=world.client_namespace)
    with pytest.raises(HoldError) as caught:
        hold.install(nothing)
    said = str(caught.value)
    assert said.startswith("hold rules cannot be installed (iptables-nft: iptables")
    assert "; iptables-legacy: iptables" in said
    assert said.count("bpf: failed to get bpf object") == 2
    assert "; nft: " in said
    assert said.endswith("; apt install iptables")
    assert "\n" not in said
    assert rules_in(world.client_namespace) == []


@pytest.mark.live
@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])
def test_rules_whose_programs_are_gone_are_removed(world: World, method: Method) -> None:
    with loaded() as kernel:
        rules = HoldRules(world.client_namespace, *kernel.pin_hold(1), FIRST_QUEUE, fail_open=False)
        hold.put_back(rules, method)
    assert hold.remove(rules, method) == []
    assert rules_in(world.client_namespace) == []


def test_what_cannot_be_removed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "_run", lambda *_: (4, "", "no"))
    assert hold.remove(RULES, Method.IPTABLES_NFT) == ["no", "no"]
    assert hold.remove(RULES, Method.NFT_QUEUE) == ["no"]


def commands(world: World, *lines: str) -> None:
    """Somebody else changes rules."""

    def run() -> None:
        for line in lines:
            subprocess.run(line, shell=True, check=True)

    namespace.run_inside(world.client_namespace, run)


@pytest.mark.live
@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])
@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), Standing.FIRST),
        (("iptables{} -t mangle -A OUTPUT -j RETURN",), Standing.FIRST),
        (("iptables{} -t mangle -F",), Standing.GONE),
        (("ip6tables{} -t mangle -F INPUT",), Standing.GONE),
        (("iptables{} -t mangle -I OUTPUT 1 -j RETURN",), Standing.BEHIND),
        (("ip6tables{} -t mangle -I INPUT 1 -j RETURN",), Standing.BEHIND),
    ],
)
def test_what_others_did_is_told_and_put_back(
    method: Method,
    rules: HoldRules,
    world: World,
    fail_open: bool,
    others: tuple[str, ...],
    expected: Standing,
) -> None:
    wanted = replace(rules, fail_open=fail_open)
    hold.put_back(wanted, method)
    suffix = method.value.removeprefix("iptables")
    commands(world, *(line.format(suffix) for line in others))
    assert hold.standing(wanted, method) is expected
    for _ in range(2):  # what stands already is not doubled
        hold.put_back(wanted, method)
        assert hold.standing(wanted, method) is Standing.FIRST
        assert len(holds_in(world.client_namespace)) == HOLDS
    assert hold.remove(wanted, method) == []
    commands(world, f"iptables{suffix} -t mangle -F; ip6tables{suffix} -t mangle -F")


@pytest.mark.live
@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])
def test_a_doubled_rule_is_made_one(rules: HoldRules, world: World, method: Method) -> None:
    hold.put_back(rules, method)
    suffix = method.value.removeprefix("iptables")
    commands(
        world,
        *(
            f"iptables{suffix} -t mangle -I {chain.hook} 1 -j {chain.own}"
            for chain in rules.chains
            if chain.hook
        ),
    )
    assert hold.standing(rules, method) is Standing.BEHIND
    hold.put_back(rules, method)
    assert hold.standing(rules, method) is Standing.FIRST
    assert hold.remove(rules, method) == []
    assert rules_in(world.client_namespace) == []


@pytest.mark.live
def test_two_firewalls_in_one_namespace_do_not_mind_each_other(rules: HoldRules, world: World) -> None:
    method = hold.install(rules)
    with loaded() as kernel:
        out, into = kernel.pin_hold(1)
        second = replace(rules, out=out, into=into, queue=rules.queue + 1)
        hold.install(second)
        assert hold.standing(rules, method) is hold.standing(second, method) is Standing.FIRST
        assert hold.remove(second, method) == []
    assert hold.remove(rules, method) == []


@pytest.mark.live
@pytest.mark.parametrize("method", Method)
def test_when_nobody_can_look_it_is_an_error(
    rules: HoldRules, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HoldError, match="is not installed"):
        hold.put_back(rules, method)
    if method is not Method.NFT_QUEUE:
        with pytest.raises(HoldError, match=r"iptables-.*-save is not installed"):
            hold.standing(rules, method)


@pytest.mark.live
def test_the_table_of_nft_is_told_and_put_back(
    rules: HoldRules, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every kernel has the queue statement: four counters named queue stand in for it."""
    monkeypatch.setattr(
        HoldRules, "nft", lambda rules: f"{rules.nft_removal()}; table {rules.table} {{ {_COUNTERS} }}"
    )
    method = Method.NFT_QUEUE
    assert hold.standing(rules, method) is Standing.GONE
    for _ in range(2):
        hold.put_back(rules, method)
        assert hold.standing(rules, method) is Standing.FIRST
    commands(world, "nft flush ruleset")
    assert hold.standing(rules, method) is Standing.GONE
    assert hold.remove(rules, method) == []


_COUNTERS = "".join(f"counter queue{number} {{ }}; " for number in range(4))


def test_programs_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HoldError) as caught:
        hold.install(RULES)
    for method, program in (
        ("iptables-nft", "iptables-nft-save"),
        ("iptables-legacy", "iptables-legacy-save"),
        ("nft", "nft"),
    ):
        assert f"{method}: {program} is not installed" in str(caught.value)
    assert len(hold.remove(RULES, Method.NFT_QUEUE)) == 1


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(HoldError, match=r"nft: Command .* timed out after 30 seconds"):
        hold.install(RULES)
