"""host/hold.py: the commands as text, and both back ends of iptables in a namespace of a lab."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from livelab import loaded, rules_in
from tidewaiter.host import hold, namespace
from tidewaiter.host.hold import HoldError, HoldRules, Method
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
    programs = {command[0] for command in RULES.commands(method, add=True)}

    def run_some(where: Path | None, command: list[str]) -> tuple[int, str]:
        return run(where, command) if command[0] in programs else (-1, f"{command[0]} is not installed")

    monkeypatch.setattr(hold, "_run", run_some)
    return method


# --- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])
def test_iptables_sends_what_its_program_says_to_the_queue(method: Method) -> None:
    suffix = "-nft" if method is Method.IPTABLES_NFT else "-legacy"
    add = [" ".join(command) for command in RULES.commands(method, add=True)]
    assert add == [
        f"{program}{suffix} -w 5 -t mangle -I {chain} 1 "
        f"-m bpf --object-pinned {pin} -j NFQUEUE --queue-num 7300"
        for program in ("iptables", "ip6tables")
        for chain, pin in (("OUTPUT", "/p/1_out"), ("INPUT", "/p/1_in"))
    ]
    remove = [" ".join(command) for command in RULES.commands(method, add=False)]
    assert remove == [
        line.replace("-I OUTPUT 1", "-D OUTPUT").replace("-I INPUT 1", "-D INPUT") for line in add
    ]


@pytest.mark.parametrize("method", Method)
def test_fail_open_lets_packets_pass_when_nobody_listens(method: Method) -> None:
    closed = str(RULES.commands(method, add=True))
    opened = str(replace(RULES, fail_open=True).commands(method, add=True))
    assert "bypass" not in closed
    assert opened.count("bypass") == 4


def test_nft_holds_what_opens_a_connection() -> None:
    (add,), (remove,) = (
        RULES.commands(Method.NFT_QUEUE, add=True),
        RULES.commands(Method.NFT_QUEUE, add=False),
    )
    assert add[0] == remove[0] == "nft"
    assert add[1].startswith("table inet tidewaiter_7300 {")
    assert add[1].count("queue to 7300") == 4
    assert remove[1] == "add table inet tidewaiter_7300; delete table inet tidewaiter_7300"


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
    there = rules_in(rules.where)
    assert len(there) == 4
    assert sum("bypass" in line for line in there) == 4 * fail_open
    assert hold.remove(wanted, only) == []
    assert rules_in(rules.where) == []
    assert hold.remove(wanted, only) == []  # what is gone already is no failure


@pytest.mark.live
def test_the_first_method_that_works_is_taken(rules: HoldRules) -> None:
    method = hold.install(rules)
    assert method in Method
    assert hold.remove(rules, method) == []


@pytest.mark.live
@pytest.mark.parametrize("method", [Method.IPTABLES_NFT, Method.IPTABLES_LEGACY])
@pytest.mark.parametrize("fails", [0, 1, 2, 3])
def test_when_a_step_fails_those_before_it_are_undone(
    rules: HoldRules, method: Method, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rules.where is not None
    broken = rules.commands(method, add=True)[fails]
    run = hold._run
    monkeypatch.setattr(
        hold, "_run", lambda where, command: (4, "no") if command == broken else run(where, command)
    )
    assert hold._run_all(rules, method) == "no"
    assert rules_in(rules.where) == []


@pytest.mark.live
def test_the_text_for_nft_is_one_that_nft_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every kernel has nftables' queue statement: another one stands in for it."""
    (command,) = RULES.commands(Method.NFT_QUEUE, add=True)
    rules = command[1].replace("queue to 7300", "counter")

    def nft(text: str) -> str:
        return namespace.run_inside(
            world.client_namespace,
            lambda: subprocess.run(["nft", text], capture_output=True, text=True, check=True).stdout,
        )

    nft(rules)
    there = nft("list table inet tidewaiter_7300")
    assert there.count("tcp flags syn / syn,ack counter") == 2
    assert there.count("ct state new counter") == 2
    (removal,) = RULES.commands(Method.NFT_QUEUE, add=False)
    nft(removal[1])
    nft(removal[1])
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
    assert said.startswith("hold rules cannot be installed (iptables-nft: iptables v1")
    assert "; iptables-legacy: iptables v1" in said
    assert said.count("bpf: failed to get bpf object") == 2
    assert "; nft: " in said
    assert said.endswith("; apt install iptables")
    assert "\n" not in said
    assert rules_in(world.client_namespace) == []


@pytest.mark.live
def test_what_cannot_be_removed_is_said(world: World) -> None:
    """Without the pinned program iptables cannot tell which rule is meant."""
    nothing = replace(RULES, where=world.client_namespace)
    failures = hold.remove(nothing, Method.IPTABLES_NFT)
    assert len(failures) == 4
    assert all("bpf: failed to get bpf object" in failure for failure in failures)


def test_programs_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HoldError) as caught:
        hold.install(RULES)
    for program in ("iptables-nft", "iptables-legacy", "nft"):
        assert f"{program}: {program} is not installed" in str(caught.value)
    assert len(hold.remove(RULES, Method.NFT_QUEUE)) == 1


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(HoldError, match=r"nft: Command .* timed out after 30 seconds"):
        hold.install(RULES)
