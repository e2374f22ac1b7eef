"""Why a connection is decided as it is. (That the rule is the right one: test_index.py.)"""

from __future__ import annotations

from tidewaiter.policy import Policy
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.explain import CHANGES, Explainer

POLICY = Policy.parse("""\
version = 1
default.out = "ask"
group.games.enabled = false

[[rule]]
name = "mail"
port = 25
not.remote = "lan"
verdict = "block"

[[rule]]
name = "play"
group = "games"
verdict = "accept"

[[rule]]
name = "vendor"
program = "/opt/vendor/"
host = ".vendor.example"
verdict = "accept"

[[rule]]
name = "curl"
program = "/usr/bin/curl"
port = "443/tcp"
verdict = "drop"
log = false

[[rule]]
name = "mine"
user = 1000
verdict = "python: my.module.decide"
""")


def explain(**connection: object) -> dict[str, object]:
    return Explainer(POLICY).explain(facts_of({"remote": "192.0.2.1:443"} | connection)).as_object()


def test_the_rule_and_what_kept_those_above_from_matching() -> None:
    found = explain(program="/usr/bin/curl")
    assert (found["verdict"], found["rule"], found["line"], found["tier"], found["log"]) == (
        "drop", "curl", 22, "python", False,  # the kernel cannot tell that the rule above does not match
    )  # fmt: skip
    assert found["above"] == [
        {"rule": "mail", "line": 5, "failed": "port", "why": ["port is 443/tcp, not 25"]},
        {"rule": "play", "line": 11, "failed": "group", "why": ["its group games is switched off"]},
        {
            "rule": "vendor",
            "line": 16,
            "failed": "program",
            "why": ["program is /usr/bin/curl, not /opt/vendor/", "host is not known, not .vendor.example"],
        },
    ]
    assert found["change"] == [
        {"rule": "play", "verdict": "accept", "dimension": "group", "negated": False, "wanted": "games"},
        {"rule": "mail", "verdict": "block", "dimension": "port", "negated": False, "wanted": 25},
    ]


def test_what_the_kernel_decides() -> None:
    explainer = Explainer(
        Policy.parse(
            'version = 1\n[[rule]]\nport = 443\nverdict = "drop"\n[[rule]]\nhost = "a"\nverdict = "ask"'
        )
    )
    assert explainer.explain(facts_of({"remote": "192.0.2.1:443"})).tier == "kernel"
    assert explainer.explain(facts_of({"remote": "192.0.2.1:80"})).tier == "python"


def test_what_is_excluded_is_said_so() -> None:
    found = explain(remote="10.0.0.1:25")
    assert found["above"][0]["why"] == ["remote is 10.0.0.1:25, which it excludes"]  # type: ignore[index]
    assert (found["verdict"], found["rule"], found["default"], found["line"]) == ("ask", "default", True, 0)


def test_what_is_not_known_yet() -> None:
    found = explain(program="/opt/vendor/x", pending=["host"])
    assert (found["verdict"], found["rule"], found["missing"], found["tier"]) == (
        "undecided", "vendor", ["host"], "python",
    )  # fmt: skip
    assert explain(program="/opt/vendor/x", name="a.vendor.example")["rule"] == "vendor"


def test_a_function_is_named() -> None:
    found = explain(user=1000)
    assert (found["verdict"], found["function"], found["tier"]) == ("python", "my.module.decide", "python")


def test_no_more_changes_than_can_be_read() -> None:
    rules = "".join(f'[[rule]]\nname = "{n}"\nport = {n}\nverdict = "drop"\n' for n in range(1, 50))
    explainer = Explainer(Policy.parse(f"version = 1\n{rules}"))
    found = explainer.explain(facts_of({"remote": "192.0.2.1:443"})).as_object()
    assert [change["rule"] for change in found["change"]] == [str(n) for n in range(49, 49 - CHANGES, -1)]
    assert len(found["above"]) == 49
