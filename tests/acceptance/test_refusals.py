"""Blocked: the program fails within 100 ms with a refusal. Dropped: it gets nothing. The peer sees neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from livelab import Agent, Capture, scope_of
from tidewaiter import Firewall, Policy, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

_AT_ONCE = 0.1
_REFUSALS = {"PermissionError", "ConnectionRefusedError"}
_DOS = ("tcp", "udp", "sendto")
_GIVES_UP = 1.2  # seconds; TCP sends its SYN again after one


def _policy(verdict: str) -> Policy:
    return Policy.parse(f'version = 1\n[[rule]]\nname = "not there"\nport = "7"\nverdict = "{verdict}"\n')


@contextmanager
def _by_kernel(world: World, name: str, verdict: Verdict) -> Iterator[None]:
    with Firewall(_policy(verdict.word), scope=scope_of(world), name=name) as firewall:
        yield
        assert firewall.statistics()["kernel_held"] == 0


@contextmanager
def _by_python(world: World, name: str, verdict: Verdict) -> Iterator[None]:
    with Firewall(_policy("ask"), decide=lambda _: verdict, scope=scope_of(world), name=name):
        yield


TIERS = {"T1": _by_kernel, "T2": _by_python}


def _guarded(world: World, name: str, tier: str, verdict: Verdict) -> AbstractContextManager[None]:
    return TIERS[tier](world, name, verdict)


@pytest.mark.parametrize("tier", TIERS)
def test_blocked_is_refused_at_once(
    world: World, agent: Agent, capture: Capture, name: str, tier: str
) -> None:
    # an answer that comes later reaches a socket without a peer only if it asks for it (IP_RECVERR, ip(7))
    dos = _DOS if tier == "T1" else _DOS[:2]
    with _guarded(world, name, tier, Verdict.PERMANENT_BLOCK):
        for address in plan.ECHO:
            for do in dos:
                for _ in range(3):
                    tried = agent.do(do, (address, 7), say="hello")
                    assert tried.error in _REFUSALS, (do, address)
                    assert tried.seconds < _AT_ONCE, (do, address)
        assert capture.to_port(7) == []
        assert agent.do("tcp", (plan.WEB.v4, 80)).error is None


@pytest.mark.parametrize("tier", TIERS)
def test_dropped_is_silence(world: World, agent: Agent, capture: Capture, name: str, tier: str) -> None:
    with _guarded(world, name, tier, Verdict.PERMANENT_DROP):
        trying = [
            agent.start(do, (address, 7), say="hello", timeout=_GIVES_UP)
            for address in plan.ECHO
            for do in _DOS
        ]
        for one in trying:
            tried = one.result(20)
            assert tried.error == "TimeoutError"
            assert tried.seconds >= _GIVES_UP
        assert capture.to_port(7) == []
        assert agent.do("tcp", (plan.WEB.v4, 80)).error is None


@pytest.mark.parametrize("tier", TIERS)
def test_a_blocked_datagram_without_a_peer_goes_nowhere(
    world: World, agent: Agent, capture: Capture, name: str, tier: str
) -> None:
    with _guarded(world, name, tier, Verdict.PERMANENT_BLOCK):
        for address in plan.ECHO:
            tried = agent.do("sendto", (address, 7), say="hello", timeout=0.5)
            assert tried.error in {*_REFUSALS, "TimeoutError"}
        assert capture.to_port(7) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_peer_is_refused_too(world: World, agent: Agent, name: str, tier: str) -> None:
    """Inbound: who connects from outside is told so by a RST, at once; the server never hears of it."""
    rule = '[[rule]]\nname = "no visitors"\ndirection = "in"\nverdict = "{}"\n'
    verdict = "block" if tier == "T1" else "ask"
    policy = Policy.parse("version = 1\n" + rule.format(verdict))
    server = agent.do("listen", (plan.CLIENT.v4, 0))
    command = f"""
import socket, sys, time
begun = time.monotonic()
try:
    socket.create_connection(("{plan.CLIENT.v4}", {server.port}), 5)
except ConnectionRefusedError:
    sys.exit(0 if time.monotonic() - begun < {_AT_ONCE} else 2)
except TimeoutError:
    sys.exit(3)
sys.exit(1)
"""
    with Firewall(policy, decide=lambda _: Verdict.PERMANENT_BLOCK, scope=scope_of(world), name=name):
        assert world.popen_server(["python3", "-c", command]).wait(20) == 0
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="out is free").heard == "out is free"
