"""Lists of a running firewall: one that changes cuts what it has now and nothing else; a bad one changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.harness import guard, rule, until, write
from livelab import PATIENCE, Agent, scope_of
from service.test_world import put, with_etag
from tidewaiter import Firewall
from tidewaiter.lab import plan
from tidewaiter.lab.world import World
from webserver import web_server

pytestmark = pytest.mark.live

BLOCKED = rule("listed", "block", list="bad")
LISTED, FREE = (plan.ECHO.v4, 7), (plan.WEB.v4, 7)
REFUSED = {"PermissionError", "ConnectionRefusedError"}
LONG = 4 * PATIENCE
NOBODY = "198.51.100.1\n"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def said(source: object) -> str:
    return f"list 'bad' from {source}: 0 names and 1 ranges of addresses (networks)"


@pytest.mark.parametrize("do", ["tcp", "udp"])
def test_a_file_that_changes(world: World, agent: Agent, name: str, tmp_path: Path, do: str) -> None:
    bad = put(tmp_path / "bad.txt", NOBODY)
    path = write(tmp_path / "policy.toml", '[list.bad]\npath = "*.txt"\n', BLOCKED)
    with guard(world, name, "--policy", path, "--state", tmp_path / "state") as firewall:
        one, other = (agent.do(do, to, say="hello") for to in (LISTED, FREE))
        assert (one.heard, other.heard) == ("hello", "hello")
        hearing = agent.start("hear", of=one.id, timeout=LONG)

        def goes_on() -> None:
            """The first datagram under a new epoch is lost: it brings the question."""
            timeout = 1 if do == "udp" else PATIENCE
            until(
                lambda: agent.do("say", of=other.id, say="more", timeout=timeout).heard == "more",
                "it goes on",
            )

        put(bad, f"{plan.ECHO.v4}\n")
        assert hearing.result(LONG).error == "ConnectionAbortedError"
        until(lambda: said(bad) in firewall.notices(), "it says so")
        assert agent.do(do, LISTED, say="hello").error in REFUSED
        goes_on()

        put(bad, "<html>Sorry!</html>\n")
        until(lambda: "stays as it was" in firewall.notices()[-1], "it says that the new list is bad")
        assert firewall.notices()[-1] == (
            f"list 'bad' stays as it was: {bad} has no format that is known here: it begins with '<html>Sorry!</html>'"
        )
        assert agent.do(do, LISTED, say="hello").error in REFUSED

        put(bad, NOBODY)
        until(lambda: firewall.notices()[-1] == said(bad), "it says that it is good again")
        until(lambda: agent.do(do, LISTED, say="hello").error is None, "it is free again")
        goes_on()
        firewall.stop()


def test_a_verdict_that_the_kernel_remembers_is_no_longer_one(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    """A socket without a peer is not cut: each of its datagrams is decided by the list in use."""
    bad = put(tmp_path / "bad.txt", NOBODY)
    path = write(tmp_path / "policy.toml", '[list.bad]\npath = "bad.txt"\n', BLOCKED)
    with Firewall(path, scope=scope_of(world), name=name):
        made = agent.do("sendto", LISTED, say="hello")
        assert agent.do("sendto", FREE, of=made.id, say="hello").error is None
        assert agent.do("sendto", LISTED, of=made.id, say="hello").error is None
        put(bad, f"{plan.ECHO.v4}\n")
        until(
            lambda: agent.do("sendto", LISTED, of=made.id, say="x", timeout=0.3).error is not None,
            "it is refused",
        )
        assert agent.do("sendto", FREE, of=made.id, say="hello").error is None


def test_a_list_of_a_server(world: World, agent: Agent, name: str, tmp_path: Path) -> None:
    with web_server() as web:
        with_etag(web, NOBODY, '"1"')
        path = write(tmp_path / "policy.toml", f'[list.bad]\nurl = "{web.url()}"\nrefresh = "1s"\n', BLOCKED)
        options: list[str | Path] = ["--policy", path, "--state", tmp_path / "state"]
        with guard(world, name, *options) as firewall:
            until(lambda: said(web.url()) in firewall.notices(), "the list has come")
            one, other = (agent.do("tcp", to, say="hello") for to in (LISTED, FREE))
            hearing = agent.start("hear", of=one.id, timeout=LONG)
            until(lambda: len(web.asked) > 2, "it is asked for again")
            assert {asked.get("If-None-Match") for asked in web.asked[1:]} == {'"1"'}
            assert firewall.notices().count(said(web.url())) == 1
            with_etag(web, f"{plan.ECHO.v4}\n", '"2"')
            assert hearing.result(LONG).error == "ConnectionAbortedError"
            assert agent.do("say", of=other.id, say="more").heard == "more"
            assert agent.do("tcp", LISTED).error in REFUSED
            web.text(b"Sorry!", status=500)
            until(lambda: "stays as it was" in firewall.notices()[-1], "it says that the server fails")
            assert agent.do("tcp", LISTED).error in REFUSED
            firewall.stop()
        with guard(world, name, *options) as firewall:  # the server still fails, and the list was kept
            assert agent.do("tcp", LISTED).error in REFUSED
            assert agent.do("tcp", FREE, say="hello").heard == "hello"
            firewall.stop()


def test_another_policy_takes_its_lists_with_it(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    """A list that has changed is read when the policy is loaded, without waiting for the next look."""
    bad = put(tmp_path / "bad.txt", NOBODY)
    path = write(tmp_path / "policy.toml", '[list.bad]\npath = "bad.txt"\n', BLOCKED)
    with Firewall(path, scope=scope_of(world), name=name, state=tmp_path / "state") as firewall:
        assert agent.do("tcp", LISTED, say="hello").heard == "hello"
        put(bad, f"{plan.ECHO.v4}\n")
        firewall.load(path)
        assert agent.do("tcp", LISTED).error in REFUSED
        write(path)
        firewall.load(path)
        assert agent.do("tcp", LISTED, say="hello").heard == "hello"


def test_a_list_of_names(world: World, agent: Agent, name: str, tmp_path: Path) -> None:
    """What a program says first names its connection, and that name is looked for in the list, also in a new one."""

    def ask(host: str) -> str:
        return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"

    bad = put(tmp_path / "bad.txt", "||ads.example^\n")
    path = write(tmp_path / "policy.toml", '[list.bad]\npath = "bad.txt"\n', BLOCKED)
    with Firewall(path, scope=scope_of(world), name=name):
        assert agent.do("tcp", FREE, say=ask("www.ads.example"), timeout=2).error is not None
        one, other = (agent.do("tcp", FREE, say=ask(host)) for host in ("more.example", "other.example"))
        assert (one.heard, other.heard) == (ask("more.example"), ask("other.example"))
        hearing = agent.start("hear", of=one.id, timeout=LONG)
        put(bad, "||ads.example^\n||more.example^\n")
        assert hearing.result(LONG).error == "ConnectionAbortedError"
        assert agent.do("say", of=other.id, say="on", timeout=PATIENCE).heard == "on"
