"""Another policy changes the verdicts of new connections at once; a bad file changes nothing and is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.harness import PYTHON, Guard, endpoint, guard, rule, run, scope_options, until, write
from livelab import Agent, Capture, scope_of
from tidewaiter import Firewall, Policy, PolicyError, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

_REFUSALS = {"PermissionError", "ConnectionRefusedError"}
_BAD = [
    ("version = 1\n[default]\nout = maybe\n", 3, 7),
    ('version = 1\n[default]\nout = "maybe"\n', 3, 7),
    ('version = 1\n[[rule]]\nname = "a"\nremote = "10.0.0.1/8"\nverdict = "block"\n', 4, 10),
    ('version = 1\n[[rule]]\nname = "a"\nprot = "80"\nverdict = "block"\n', 4, 1),
    ('version = 1\n[[rule]]\nname = "a"\nport = ["80", "htps"]\nverdict = "block"\n', 4, 15),
    ("version = 7\n", 1, 11),
    # regular expressions: one that is none, and one that would need more memory than there is for it
    ('version = 1\n[[rule]]\nhost = ["a.example", "re:(a"]\nverdict = "block"\n', 3, 22),
    ('version = 1\n[[rule]]\nunit = "re:(a{1000}){1000}"\nverdict = "block"\n', 3, 8),
    # lists: one that is nowhere, and one that comes from nowhere
    ('version = 1\n[[rule]]\nlist = "ads"\nverdict = "block"\n', 3, 8),
    ('version = 1\n[list.ads]\nformat = "hosts"\n', 2, 1),
    # the schema: keys and types that there are not
    ("version = 1\n[rules]\nport = 7\n", 2, 1),
    ('version = 1\n[[rule]]\nnot.prot = 1\nverdict = "block"\n', 3, 1),
    ('version = 1\n[[rule]]\nport = 7.5\nverdict = "block"\n', 3, 8),
    ("version = 1\n[group.a]\nenabled = 1\n", 3, 11),
]


def _verdicts(agent: Agent) -> list[str | None]:
    """What becomes of new connections: TCP and UDP over both families."""
    errors = []
    for address in plan.ECHO:
        for do in ("tcp", "udp", "sendto"):
            error = agent.do(do, (address, 7), say="hello", timeout=0.5).error
            errors.append("refused" if error in _REFUSALS else error)
    return errors


FREE, REFUSED = [None] * 6, ["refused"] * 6


def _by_signal(firewall: Guard, change: Callable[[], object]) -> str:
    change()
    return firewall.reload()


def _by_itself(firewall: Guard, change: Callable[[], object]) -> str:
    before = len(firewall.notices())
    change()
    until(lambda: len(firewall.notices()) > before, "the file is read again")
    return firewall.notices()[before]


@pytest.mark.parametrize("how", [_by_signal, _by_itself])
def test_new_connections_follow_the_new_policy(
    world: World, agent: Agent, name: str, tmp_path: Path, how: Callable[..., str]
) -> None:
    path = write(tmp_path / "policy.toml", rule("no echo", "block", port="7"))
    with guard(world, name, "--policy", path) as firewall:
        assert _verdicts(agent) == REFUSED
        said = how(firewall, lambda: write(path, rule("echo", "accept", port="7")))
        assert said == f"{path} is in force"
        assert _verdicts(agent) == FREE
        line = firewall.wait_for(
            event="verdict", verdict="accept", rule="echo", remote=endpoint(plan.ECHO.v4, 7)
        )
        assert line["tier"] == "kernel"
        how(firewall, lambda: write(path, rule("no python", "block", program=PYTHON)))
        assert _verdicts(agent) == REFUSED
        how(firewall, lambda: write(path))
        assert _verdicts(agent) == FREE
        firewall.stop()


def test_a_bad_file_is_refused_and_the_old_policy_stays(
    world: World, agent: Agent, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "policy.toml", rule("no echo", "block", port="7"))
    with guard(world, name, "--policy", path) as firewall:
        for text, line, column in _BAD:
            bad = tmp_path / "bad.toml"
            bad.write_text(text)
            said = _by_itself(firewall, lambda bad=bad: bad.replace(path))  # type: ignore[misc]
            assert said.startswith(f"{path}:{line}:{column}: ")
            assert said.endswith("the policy in force stays")
            assert "\n" not in said
            assert _verdicts(agent) == REFUSED
        more = tmp_path / "more.toml"
        more.write_text('version = 1\n[[rule]]\nverdict = "reject"\n')
        said = _by_itself(firewall, lambda: write(path, 'include = "more.toml"\n'))
        assert said.startswith(f"{more}:3:11: ")
        assert said.endswith("the policy in force stays")
        said = _by_itself(firewall, lambda: write(path, rule("code", "python: no_such_module.decide")))
        assert said.startswith(f"{path}:2:1: ")
        assert said.endswith("the policy in force stays")
        assert _verdicts(agent) == REFUSED
        path.unlink()
        assert "the policy in force stays" in firewall.reload()
        assert _verdicts(agent) == REFUSED
        _by_itself(firewall, lambda: write(path))
        assert _verdicts(agent) == FREE
        firewall.stop()


@pytest.mark.parametrize(("text", "line", "column"), _BAD)
def test_policy_check_names_file_line_column_and_remedy(
    tmp_path: Path, text: str, line: int, column: int
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    finished = run("policy", "check", path)
    assert (finished.status, finished.output) == (1, "")
    assert re.fullmatch(rf"{re.escape(str(path))}:{line}:{column}: [^;\n]+; [^\n]+\n", finished.errors)


def test_a_bad_file_does_not_start_a_firewall(world: World, name: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(_BAD[0][0])
    for finished in (
        run("run", "--name", name, *scope_options(world), "--policy", path),
        run("lab", "--policy", path, "--", "true"),
    ):
        assert finished.status == 2
        assert f"{path}:3:7: " in finished.errors
        assert len(finished.errors.splitlines()) == 1


def test_policy_check_of_a_good_file(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.toml", rule("no echo", "block", port="7"), rule("ask", "ask", port="9"))
    finished = run("policy", "check", path)
    assert finished.status == 0
    assert len(finished.output.splitlines()) == 1
    assert "2 rules" in finished.output


# --- the Python face, and what was open before ----------------------------------------------------------------


def test_load_in_python(world: World, agent: Agent, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "policy.toml", rule("no echo", "block", port="7"))
    with Firewall(path, scope=scope_of(world), name=name) as firewall:
        assert _verdicts(agent) == REFUSED
        path.write_text(_BAD[0][0])
        with pytest.raises(PolicyError, match=re.escape(f"{path}:3:7: ")):
            firewall.load(path)
        assert _verdicts(agent) == REFUSED
        firewall.load(Policy())
        assert _verdicts(agent) == FREE


RULES = {
    "by port": rule("no more", "drop", port="7"),
    "by address": rule("no more", "drop", remote=[*plan.ECHO]),
    "by program": rule("no more", "drop", program=PYTHON),
    "by user": rule("no more", "drop", user="root"),
}


@pytest.mark.parametrize("address", plan.ECHO)
@pytest.mark.parametrize("kind", RULES)
def test_an_old_datagram_socket_follows_the_new_policy(
    world: World, agent: Agent, capture: Capture, name: str, kind: str, address: str
) -> None:
    """A socket without a peer makes new connections for as long as it lives."""
    with Firewall(Policy(), scope=scope_of(world), name=name) as firewall:
        made = agent.do("sendto", (plan.WEB.v4 if "." in address else plan.WEB.v6, 7), say="hello")
        assert made.error is None
        firewall.load(Policy.parse("version = 1\n" + RULES[kind]))
        capture.packets()
        assert agent.do("sendto", (address, 7), say="x", of=made.id, timeout=0.3).error == "TimeoutError"
        assert capture.to_port(7) == []


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("do", ["tcp", "udp", "sendto"])
def test_open_connections_are_decided_again(
    world: World, agent: Agent, capture: Capture, name: str, kind: str, do: str
) -> None:
    """As `Firewall.load` and docs say: what is now blocked is cut with its next packet."""
    with Firewall(Policy(), scope=scope_of(world), name=name) as firewall:
        made = agent.do(do, (plan.ECHO.v4, 7), say="hello")
        assert made.error is None
        firewall.load(Policy.parse("version = 1\n" + RULES[kind]))
        capture.packets()
        order = {"do": "say"} if do != "sendto" else {"do": "sendto", "to": (plan.ECHO.v4, 7)}
        assert agent.do(**order, of=made.id, say="more", timeout=0.5).error is not None
        assert [one for one in capture.to_port(7) if one.payload] == []


def test_a_verdict_of_python_is_asked_for_again(world: World, agent: Agent, name: str) -> None:
    """With a policy that asks, every connection that is still open is a question again."""
    answers = [Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_DROP]
    ask = Policy.parse('version = 1\n[default]\nout = "ask"\n')
    with Firewall(ask, decide=lambda _: answers[0], scope=scope_of(world), name=name) as firewall:
        made = agent.do("udp", (plan.ECHO.v4, 7), say="hello")
        assert made.error is None
        answers.pop(0)
        firewall.load(ask)
        assert agent.do("say", of=made.id, say="more", timeout=0.5).error == "TimeoutError"
