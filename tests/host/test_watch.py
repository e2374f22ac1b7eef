"""host/watch.py: a look notices every change of rules and of queues, and costs next to nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tidewaiter.host import namespace, watch
from tidewaiter.host.hold import Method
from tidewaiter.host.queue import Queue
from tidewaiter.host.watch import LegacyWatch, NftWatch, QueueTable, queue_owner
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

Run = Callable[[str], None]


@pytest.fixture
def run(world: World) -> Iterator[Run]:
    """Runs commands in the client's namespace, and leaves no rules behind."""

    def run(command: str) -> None:
        namespace.run_inside(
            world.client_namespace,
            lambda: subprocess.run(command, shell=True, check=True, capture_output=True),
        )

    yield run
    run("nft flush ruleset")
    for program in ("iptables-legacy", "ip6tables-legacy"):
        run(f"{program} -t mangle -F")


@pytest.mark.parametrize(
    "change",
    [
        "iptables-nft -t mangle -A OUTPUT -j ACCEPT",
        "ip6tables-nft -t mangle -A INPUT -j ACCEPT",
        "nft add table inet others",
        "nft flush ruleset",
    ],
)
def test_nftables_counts_every_change(world: World, run: Run, change: str) -> None:
    run("iptables-nft -t mangle -A OUTPUT -j RETURN")
    with closing(NftWatch(world.client_namespace)) as watching:
        before = watching.stamp()
        assert watching.stamp() == before
        run(change)
        assert watching.stamp() != before


@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy"])
@pytest.mark.parametrize(
    "change",
    [
        "-F",
        "-I OUTPUT 1 -j ACCEPT",
        "-I INPUT 1 -j ACCEPT",
        "-R OUTPUT 1 -j ACCEPT",
        "-R INPUT 1 -j ACCEPT",
        "-R FORWARD 1 -j ACCEPT",
        "-D INPUT 1",
        "-A OUTPUT -j ACCEPT",
    ],
)
def test_of_iptables_legacy_the_first_rules_are_read(
    world: World, run: Run, program: str, change: str
) -> None:
    for chain in ("OUTPUT", "INPUT", "FORWARD"):
        run(f"{program} -t mangle -A {chain} -j RETURN")
    with closing(LegacyWatch(world.client_namespace, ("nat", "mangle"))) as watching:
        before = watching.stamp()
        run("ping -c 1 10.77.0.10")  # counters change
        assert watching.stamp() == before
        run(f"{program} -t mangle {change}")
        assert watching.stamp() != before


def test_of_a_large_table_only_the_shape_is_read(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LARGE", 100)
    run("iptables-legacy -t mangle -A OUTPUT -j RETURN")
    with closing(LegacyWatch(world.client_namespace, ("nat", "mangle"))) as watching:
        before = watching.stamp()
        run("iptables-legacy -t mangle -A OUTPUT -j RETURN")
        assert watching.stamp() != before


def test_the_method_chooses(world: World) -> None:
    for method, kind in (
        (Method.IPTABLES_NFT, NftWatch),
        (Method.NFT_QUEUE, NftWatch),
        (Method.IPTABLES_LEGACY, LegacyWatch),
    ):
        with closing(watch.watch(world.client_namespace, method, ("mangle",))) as made:
            assert type(made) is kind


def test_a_look_costs_microseconds(world: World, run: Run) -> None:
    """What the guard does four times a second must be nothing: see docs/design.md."""
    run("iptables-legacy -t mangle -A OUTPUT -j RETURN")
    for method in Method:
        with closing(watch.watch(world.client_namespace, method, ("mangle", "nat"))) as watching:
            begun = time.thread_time()
            for _ in range(100):
                watching.stamp()
            assert (time.thread_time() - begun) / 100 < 0.002


def test_queues_and_who_has_them(world: World) -> None:
    with closing(QueueTable(world.client_namespace)) as table:
        assert table.read() == {}
        assert queue_owner(world.client_namespace, 7311) == ""
        with closing(Queue(world.client_namespace, 1, 7311)) as queue:
            assert table.read() == {7311: (queue.port, 0, 0)}
            owner = queue_owner(world.client_namespace, 7311)
            assert owner.endswith(f" ({os.getpid()})") or str(queue.port) in owner
        assert table.read() == {}
