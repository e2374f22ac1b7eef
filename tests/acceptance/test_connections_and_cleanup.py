"""`tidewaiter connections` shows what is open, with bytes; `tidewaiter cleanup` removes what a crash left."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.harness import PYTHON, Guard, endpoint, guard, links, links_of, rule, run, until, write
from livelab import Agent, left_of
from tidewaiter.host import state
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live


@pytest.mark.parametrize(("verdict", "tier"), [("accept", "kernel"), ("ask", "python")])
def test_live_connections_are_shown_with_their_bytes(
    world: World, agent: Agent, name: str, tmp_path: Path, verdict: str, tier: str
) -> None:
    policy = write(tmp_path / "policy.toml", rule("echo", verdict, port="7"))
    with guard(world, name, "--policy", policy, "--timeout", "0.05", "--on-timeout", "accept") as firewall:
        made = {}
        for address in plan.ECHO:
            for do in ("tcp", "udp"):
                one = agent.do(do, (address, 7), say="x" * 100, times=3)
                assert one.error is None
                client = plan.CLIENT.v6 if ":" in address else plan.CLIENT.v4
                made[endpoint(client, one.port)] = (one.id, do, endpoint(address, 7))
        finished = run("connections", "--name", name, "--json")
        assert finished.status == 0, finished.errors
        shown = {line["local"]: line for line in finished.events}
        assert shown.keys() == made.keys()
        for local, (_, do, remote) in made.items():
            line = shown[local]
            assert (line["program"], line["pid"], line["user"]) == (PYTHON, agent.pid, "root")
            assert (line["direction"], line["protocol"], line["remote"]) == ("out", do, remote)
            assert (line["verdict"], line["tier"]) == ("accept", tier)
            assert (line["sent"], line["received"]) == (300, 300)
            assert 0 < line["duration"] < 30
        for columns in (80, 200):
            table = run("connections", "--name", name, "--once", columns=columns)
            assert table.status == 0
            assert table.output.count("accept") == table.output.count("→ ") == len(made)
            assert table.output.count("300 B") == 2 * len(made)
        assert table.output.count(f"({agent.pid})") == len(made)
        for _, do, remote in made.values():
            assert f"→ {remote} {do}" in table.output

        for number, _, _ in made.values():
            assert agent.do("close", of=number).error is None
        until(lambda: len(firewall.about(event="end")) == len(made), "they have ended")
        assert run("connections", "--name", name, "--json").events == []
        firewall.stop()


@pytest.mark.parametrize("verdict", ["accept", "ask"])
def test_the_rule_shown_is_the_rule_told(
    world: World, agent: Agent, name: str, tmp_path: Path, verdict: str
) -> None:
    policy = write(tmp_path / "policy.toml", rule("echo", verdict, port="7"))
    with guard(world, name, "--policy", policy, "--timeout", "0.05", "--on-timeout", "accept") as firewall:
        assert agent.do("tcp", (plan.ECHO.v4, 7), say="hello").error is None
        told = firewall.wait_for(event="verdict")
        (shown,) = run("connections", "--name", name, "--json").events
        assert told["rule"] != ""
        assert shown["rule"] == told["rule"]
        firewall.stop()


def test_connections_of_a_firewall_that_does_not_run(name: str) -> None:
    finished = run("connections", "--name", name, "--json")
    assert (finished.status, finished.output) == (1, "")
    assert finished.errors.startswith(f"Error: no firewall '{name}' runs here")
    assert len(finished.errors.splitlines()) == 1


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_cleanup_removes_what_a_crash_left(
    world: World, agent: Agent, name: str, tmp_path: Path, fail: str
) -> None:
    policy = write(
        tmp_path / "policy.toml", rule("no echo", "block", port="7"), rule("web", "ask", port="80")
    )
    firewall = Guard(world, name, "--policy", policy, "--fail", fail)
    try:
        held = links_of(name)
        assert held
        alive = run("cleanup", "--name", name)
        assert alive.status == 1
        assert f"runs as process {firewall.process.pid}" in alive.errors
        assert firewall.process.poll() is None
    finally:
        firewall.kill()
    assert agent.do("tcp", (plan.ECHO.v4, 7)).error is not None
    assert (state.RUN / f"{name}.json").exists()
    assert run("cleanup", "--name", name).status == 0
    assert left_of(world, name) == []
    assert not held & set(links())
    assert agent.do("tcp", (plan.ECHO.v4, 7), say="free").heard == "free"
    assert agent.do("tcp", (plan.WEB.v4, 80)).error is None
    again = run("cleanup", "--name", name)
    assert (again.status, again.output) == (0, f"{name}: nothing is there\n")
