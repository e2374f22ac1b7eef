"""Connections as JSON: every key, and one sentence for what cannot be read."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.process import Process
from tidewaiter.policy.connection import KEYS, facts_of, read_connection
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.rule import Facts
from tidewaiter.service.report import describe


def test_the_least() -> None:
    facts = facts_of({"remote": "192.0.2.1:443"})
    assert facts[:8] == ("", -1, Direction.OUT, 6, ip_address("0.0.0.0"), 0, ip_address("192.0.2.1"), 443)
    assert facts_of({"remote": "2001:db8::1"}).local == ip_address("::")
    assert facts_of({"remote": "::ffff:192.0.2.1"}).remote == ip_address("192.0.2.1")


def test_the_object_that_json_prints_is_read() -> None:
    key = ConnectionKey(17, ip_address("fd00::1"), 4000, ip_address("2001:db8::1"), 53)
    group = "/system.slice/a.service/" + "c" * 64
    process = Process(7, "/usr/bin/python3", ("python3", "/srv/a.py"), 0, 0, "root", cgroup=group)
    connection = Connection(1, key, Direction.IN, process)
    facts = read_connection(json.dumps(describe(connection) | {"event": "verdict", "time": 5.5, "held": 0.1}))
    real = Facts.of(connection, time=5.5)
    assert facts[:8] == real[:8]
    assert facts.time == 5.5
    for name in ("pid", "arguments", "unit", "container", "script", "app"):
        assert getattr(facts.details, name) == getattr(real.details, name)


def test_every_key_is_taken() -> None:
    values: dict[str, Any] = {
        "program": "/a", "sha256": "AB" * 32, "sha1": "ab" * 20, "md5": "ab" * 16, "package": "p", "script": "s",
        "app": "snap:a",
        "unit": "u", "cgroup": "/c", "container": "d", "interface": "eth0", "name": "A.example.", "country": "de",
        "continent": "eu", "arguments": ["a", "b"], "ancestors": ["/x"], "aliases": ["b.example"], "network": "home",
        "pending": ["sha256"], "environment": {"A": "b"}, "user": "root", "user_group": 5, "pid": 9,
        "direction": "forward",
        "protocol": "udp", "local": "10.0.0.1:1", "remote": "10.0.0.2:2", "asn": "AS5", "time": "2026-01-05T12:00:00Z",
    }  # fmt: skip
    assert set(values) == set(KEYS)
    facts = facts_of(values)
    details = facts.details
    assert facts.names == ("a.example", "b.example")
    assert (facts.uid, details.gid, details.pid, facts.protocol, facts.asn) == (0, 5, 9, 17, 5)
    assert (details.environment, details.sha256, facts.network, set(facts.pending)) == (
        ("A=b",), "ab" * 32, ("home",), {"sha256"},
    )  # fmt: skip
    assert (facts.country, facts.continent, facts.time) == ("DE", "EU", 1767614400.0)


def test_a_user_that_is_not_here_is_not_known() -> None:
    assert facts_of({"remote": "192.0.2.1", "user": "no such user"}).uid == -1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the connection is not JSON (Expecting property name"),
        ("[]", "the connection is not an object; "),
        ("{}", 'the connection has no remote end; add "remote": "192.0.2.1:443"'),
        ('{"remote": "x", "progam": 1}', "a connection has no key 'progam'; did you mean program?"),
        ('{"remote": "x"}', "remote is 'x'; write it like 192.0.2.1:443 or [2001:db8::1]:443"),
        ('{"remote": "1.1.1.1", "local": "::1"}', "local and remote are of two address families; "),
        ('{"remote": "1.1.1.1", "program": 1}', "program is 1; write a text"),
        ('{"remote": "1.1.1.1", "arguments": 1}', "arguments is 1; write a list of texts"),
        ('{"remote": "1.1.1.1", "protocol": "tcp6"}', "tcp6 is not a protocol of IPv4; "),
        ('{"remote": "1.1.1.1", "protocol": true}', "protocol is True; "),
        ('{"remote": "1.1.1.1", "direction": "up"}', "there is no direction 'up'; write out, in or forward"),
        ('{"remote": "1.1.1.1", "time": "soon"}', "time is 'soon'; "),
        ('{"remote": "1.1.1.1", "time": -1}', "time is -1; "),
        ('{"remote": "1.1.1.1", "pid": "x"}', "pid is 'x'; write a number"),
        ('{"remote": "1.1.1.1", "environment": 5}', "environment is 5; "),
        ('{"remote": "1.1.1.1", "pending": ["name"]}', "there is no dimension 'name'; "),
        ('{"remote": "1.1.1.1", "user": true}', "user is True; "),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        read_connection(text)
    assert str(raised.value).startswith(message)


def read_or_refused(text: str) -> None:
    try:
        read_connection(text)
    except BadValueError as bad:
        assert "\n" not in str(bad)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1.1.1.1:5", "::1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), JSON), st.sampled_from(["1.1.1.1:5", "[::1]:1", "x"]))
def test_any_object_is_read_or_refused(value: dict[str, Any], remote: str) -> None:
    read_or_refused(json.dumps({"remote": remote} | value))
