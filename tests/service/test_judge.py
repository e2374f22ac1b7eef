"""What decides a connection."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Policy
from tidewaiter.policy.details import BLIND
from tidewaiter.policy.rule import World
from tidewaiter.service.facts import LiveFacts
from tidewaiter.service.judge import Judge
from tidewaiter.service.rules import Rules

ENDS = ip_address("192.0.2.1"), 4000, ip_address("192.0.2.2"), 443


def a_connection() -> Connection:
    """To a web server."""
    return Connection(1, ConnectionKey(6, *ENDS), Direction.OUT)


def judge(text: str, *, redirects: bool = False) -> Judge:
    """By a policy's rules; when something fails, silence."""
    policy = Policy.parse("version = 1\n" + text)
    rules = Rules(policy, World(), LiveFacts(BLIND, None, lambda: None, lambda _text: None))
    return Judge(rules, None, otherwise=Verdict.PERMANENT_DROP, redirects=redirects)


def test_a_policy_that_fails_is_as_if_nobody_had_answered(caplog: pytest.LogCaptureFixture) -> None:
    """As when the file is broken in which a rule looks: the loop goes on, and the packet does not wait."""

    class Broken:
        def decide(self, _: object) -> None:
            raise OSError(5, "a database that cannot be read")

    one = judge("")
    one.rules._classifier = Broken()  # type: ignore[assignment]
    assert one(a_connection(), b"") is Verdict.PERMANENT_DROP
    assert "treated as if nobody had answered" in caplog.text


@pytest.mark.parametrize(
    ("says", "redirects", "verdict"),
    [
        ("accept", False, Verdict.PERMANENT_ACCEPT),
        ("block", False, Verdict.PERMANENT_BLOCK),
        ("ask", False, None),
        ("redirect-tunnel", True, Verdict.REDIRECT_TUNNEL),
        ("redirect-tunnel", False, Verdict.PERMANENT_DROP),
    ],
)
def test_the_first_rule_that_matches_decides(says: str, redirects: bool, verdict: Verdict | None) -> None:
    rules = f'[[rule]]\nname = "x"\nport = 443\nverdict = "{says}"\n[[rule]]\nname = "y"\nverdict = "block"\n'
    connection = a_connection()
    assert judge(rules, redirects=redirects)(connection, b"") is verdict
    assert connection.rule == "x"
