"""Beside Docker, firewalld, ufw, WireGuard and other users of eBPF: docs/howto/with-other-firewalls.md."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from acceptance.harness import guard, until, write
from livelab import HOLDS, PATIENCE, Agent, compile_bpf, holds_in, new_pins, scope_of
from tidewaiter import Connection, Firewall, Verdict
from tidewaiter.host import namespace
from tidewaiter.kernel import bpffs
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

DOCKER = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A POSTROUTING -o lab0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""

UFW = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-before-output - [0:0]
:ufw-after-input - [0:0]
:ufw-user-input - [0:0]
:ufw-user-output - [0:0]
:ufw-track-output - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A OUTPUT -j ufw-before-output
-A OUTPUT -j ufw-track-output
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-user-input
-A ufw-before-output -o lo -j ACCEPT
-A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-output -j ufw-user-output
-A ufw-track-output -p tcp -m conntrack --ctstate NEW -j ACCEPT
-A ufw-track-output -p udp -m conntrack --ctstate NEW -j ACCEPT
COMMIT
"""

FIREWALLD = """\
table inet firewalld {
    chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
        oifname "docker0" masquerade
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        tcp dport 22 ct state { new, untracked } accept
        reject
    }
    chain filter_OUTPUT {
        type filter hook output priority filter + 10; policy accept;
        ct state { established, related } accept
        oifname "lo" accept
    }
}
"""

RULES = {
    "docker": ("iptables-nft-restore --noflush", DOCKER),
    "docker, legacy": ("iptables-legacy-restore --noflush", DOCKER),
    "ufw": ("iptables-nft-restore --noflush", UFW),
    "ufw, legacy": ("iptables-legacy-restore --noflush", UFW),
    "firewalld": ("nft -f -", FIREWALLD),
}
UNDO = """
nft flush ruleset
for table in nat filter; do iptables-legacy -t $table -F; iptables-legacy -t $table -X; done
for chain in INPUT FORWARD; do iptables-legacy -P $chain ACCEPT; done
"""
ACCEPTED, BLOCKED, DROPPED = plan.WEB.v4, plan.TLS.v4, plan.ECHO.v4
TIMED_OUT, NOT_CONNECTED = 28, 7  # curl(1), "EXIT CODES"


def command(world: World, text: str, stdin: str = "") -> str:
    """Runs something of another program in the client's namespace."""
    return namespace.run_inside(
        world.client_namespace,
        lambda: (
            subprocess.run(
                text, shell=True, check=True, input=stdin, stdout=subprocess.PIPE, text=True
            ).stdout
        ),
    )


@pytest.fixture
def lay(world: World) -> Iterator[Callable[[str], None]]:
    """Lays down the rules of another program, and takes them away at the end."""

    def lay(whose: str) -> None:
        how, text = RULES[whose]
        command(world, how, text)

    yield lay
    command(world, UNDO)


def curl(world: World, address: str, seconds: float) -> tuple[int, float]:
    """The exit status of curl and how long it took."""
    begun = time.monotonic()
    arguments = ["curl", "-sS", "-o", "/dev/null", "-m", str(seconds), f"http://{address}/"]
    status = world.popen(arguments, stderr=subprocess.DEVNULL).wait(PATIENCE)
    return status, time.monotonic() - begun


@pytest.mark.parametrize("whose", RULES)
@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
def test_holding_accepting_blocking_and_dropping_work(
    world: World, name: str, lay: Callable[[str], None], whose: str, first: bool
) -> None:
    asked: list[tuple[str, str]] = []

    def decide(connection: Connection) -> Verdict:
        remote = str(connection.key.remote)
        asked.append((connection.process.name, remote))
        if remote == ACCEPTED:
            return Verdict.PERMANENT_ACCEPT
        return Verdict.PERMANENT_BLOCK if remote == BLOCKED else Verdict.PERMANENT_DROP

    if first:
        lay(whose)
    with Firewall(decide=decide, scope=scope_of(world), name=name) as firewall:
        if not first:
            lay(whose)
        assert curl(world, ACCEPTED, PATIENCE)[0] == 0
        status, seconds = curl(world, BLOCKED, PATIENCE)
        assert status == NOT_CONNECTED
        assert seconds < PATIENCE / 2
        assert curl(world, DROPPED, 1.5)[0] == TIMED_OUT
        assert set(asked) == {("curl", remote) for remote in (ACCEPTED, BLOCKED, DROPPED)}
        assert firewall.statistics()["kernel_held"] >= 3


def test_what_another_tool_flushed_is_back_and_in_the_events(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "policy.toml", '[default]\nout = "ask"\n')
    options = ("--policy", path, "--timeout", "0.5", "--on-timeout", "accept")
    with guard(world, name, *options) as firewall:
        opened = agent.do("tcp", (plan.ECHO.v4, 7), say="x", timeout=PATIENCE)
        assert opened.error is None
        command(world, "nft flush ruleset")
        firewall.wait_for(
            PATIENCE,
            event="notice",
            text=f"the hold rules in {world.client_namespace} were gone; they are put back",
        )
        assert len(holds_in(world.client_namespace)) == HOLDS
        assert agent.do("say", of=opened.id, say="more").heard == "more"
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="x", timeout=PATIENCE).error is None
        firewall.kill()
    command(world, "nft flush ruleset")  # while nobody looks
    with guard(world, name, *options) as firewall:
        until(lambda: len(holds_in(world.client_namespace)) == HOLDS, "they are back")
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="x", timeout=PATIENCE).error is None
        firewall.stop()


MARK = 0xCA6C
"""What wg-quick(8) marks the packets of the tunnel itself with."""


@pytest.mark.parametrize("do", ["tcp", "udp"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_marks_of_wireguard_go_through_the_queue(
    world: World, agent: Agent, name: str, do: str, family: str
) -> None:
    """Without the mark there is no way out, as within the tunnel's own packets; the held packet must keep it."""
    to = (plan.ECHO.v4 if family == "-4" else plan.ECHO.v6, 7)
    tables = "iptables-nft" if family == "-4" else "ip6tables-nft"
    asked: list[Connection] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection)
        return Verdict.PERMANENT_ACCEPT

    command(world, f"ip {family} route add blackhole default table 51820")
    command(world, f"ip {family} rule add not fwmark {MARK} table 51820")
    command(world, f"{tables} -t mangle -A POSTROUTING -p {do} --dport 7 -m mark ! --mark {MARK} -j DROP")
    try:
        with Firewall(decide=decide, scope=scope_of(world), name=name) as firewall:
            assert agent.do(do, to, say="x", timeout=1).error is not None
            asked.clear()
            opened = agent.do(do, to, say="x", mark=MARK, timeout=PATIENCE)
            assert (opened.error, opened.heard) == (None, "x")
            assert [connection.key.local_port for connection in asked] == [opened.port]
            assert agent.do("say", of=opened.id, say="more").heard == "more"
            assert firewall.statistics()["released"] + firewall.statistics()["kernel_held"] >= 1
    finally:
        command(world, f"ip {family} rule del not fwmark {MARK} table 51820")
        command(world, f"ip {family} route del blackhole default table 51820")
        command(world, UNDO)


STRANGERS = """
SEC("cgroup/connect4") int others_connect(struct bpf_sock_addr *ctx) { return ctx->user_port != __builtin_bswap16(9); }
SEC("cgroup_skb/egress") int others_egress(struct __sk_buff *skb) { return skb->len != 28 + 333; }
"""


@contextmanager
def strangers(world: World, folder: Path) -> Iterator[None]:
    """Another user of eBPF, who refuses port 9 at connect(2), and packets of one length at the gate."""
    built, pins = folder / "strangers.o", new_pins()
    compile_bpf(built, STRANGERS)
    places = {"others_connect": "cgroup_inet4_connect", "others_egress": "cgroup_inet_egress"}

    def bpftool(*arguments: str | Path) -> None:
        subprocess.run(["bpftool", *arguments], check=True)

    with ExitStack() as stack:
        bpffs.ensure()
        pins.parent.mkdir(parents=True, exist_ok=True)
        bpftool("prog", "loadall", built, pins)
        stack.callback(shutil.rmtree, pins)
        for program, place in places.items():
            what = (world.cgroup, place, "pinned", pins / program)
            bpftool("cgroup", "attach", *what, "multi")
            stack.callback(bpftool, "cgroup", "detach", *what)
        yield


@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
def test_another_user_of_ebpf_goes_on_and_so_do_we(
    world: World, agent: Agent, name: str, tmp_path: Path, first: bool
) -> None:
    def decide(connection: Connection) -> Verdict:
        accepts = str(connection.key.remote) == plan.ECHO.v4
        return Verdict.PERMANENT_ACCEPT if accepts else Verdict.PERMANENT_BLOCK

    def theirs() -> None:
        assert agent.do("tcp", (plan.ECHO.v4, 9)).error == "PermissionError"
        refused = agent.do("udp", (plan.ECHO.v4, 7), say="x" * 333, timeout=1)
        assert refused.error in (
            "PermissionError",
            "TimeoutError",
        )  # of a held packet its program hears nothing

    def ours() -> None:
        assert agent.do("tcp", (plan.WEB.v4, 80)).error == "ConnectionRefusedError"
        for do in ("tcp", "udp"):
            assert agent.do(do, (plan.ECHO.v4, 7), say="x", timeout=PATIENCE).heard == "x"

    with ExitStack() as stack:
        foreign = strangers(world, tmp_path)
        if first:
            stack.enter_context(foreign)
            theirs()
        with Firewall(decide=decide, scope=scope_of(world), name=name):
            ours()
            if not first:
                stack.enter_context(foreign)
            theirs()
            ours()
            if not first:
                stack.close()  # they leave before we do
                ours()
        if first:
            theirs()
