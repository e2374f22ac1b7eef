"""A directory of OpenSnitch's rules, decided as its documentation says: each operator, operand and form.

`TheirWay` is what its wiki says of rules, in the plainest way; it shares nothing with the import.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tidewaiter.policy import Classifier, Policy
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.opensnitch import import_opensnitch
from tidewaiter.service.world import read_world

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MD5 = "0123456789abcdef0123456789abcdef"
SHA1 = "0123456789abcdef0123456789abcdef01234567"


def op(operand: str, data: str, kind: str = "simple", *, sensitive: bool = False) -> dict[str, Any]:
    return {"type": kind, "operand": operand, "data": data, "sensitive": sensitive, "list": None}


def both(*operators: dict[str, Any]) -> dict[str, Any]:
    return {"type": "list", "operand": "list", "data": "", "list": list(operators)}


def old(*operators: dict[str, Any]) -> dict[str, Any]:
    """As older versions wrote it: the list is a text in data."""
    return {"type": "list", "operand": "list", "data": json.dumps(operators), "list": []}


def rules(lists: Path) -> list[dict[str, Any]]:
    """More than forty rules: name, action, operator, and what else there is."""
    found: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("000-allow-localhost", "allow", op("dest.ip", "127.0.0.1"), {"precedence": True, "nolog": True}),
        ("000-allow-localhost6", "allow", op("dest.ip", "::1"), {"precedence": True}),
        ("010-deny-md5", "deny", op("process.hash.md5", MD5), {"enabled": False}),
        ("011-deny-domains", "deny", op("lists.domains", str(lists / "domains"), "lists"), {}),
        ("012-reject-regexps", "reject", op("lists.domains_regexp", str(lists / "regexps"), "lists"), {}),
        ("013-deny-ips", "deny", op("lists.ips", str(lists / "ips"), "lists"), {}),
        ("014-deny-nets", "deny", op("lists.nets", str(lists / "nets"), "lists"), {}),
        ("015-deny-parent", "deny", op("process.parent.path", "/usr/sbin/cron", sensitive=True), {}),
        ("016-reject-command", "reject", op("process.command", r"--insecure\b", "regexp"), {}),
        ("017-deny-env", "deny", op("process.env.VPN", "no"), {}),
        ("018-deny-pid", "deny", op("process.id", "4711"), {}),
        ("019-deny-host", "deny", op("dest.host", "Ads.Example.com"), {}),
        ("020-reject-hosts", "reject", op("dest.host", r"^track[0-9]+\.", "regexp"), {}),
        ("021-deny-range", "deny", op("dest.port", "6881-6889", "range"), {}),
        ("022-deny-udp6", "deny", op("protocol", "udp6"), {}),
        ("023-deny-aliases", "deny", op("dest.network", "MULTICAST", "network"), {}),
        ("024-reject-iface", "reject", op("iface.out", "^tun", "regexp"), {}),
        ("025-deny-source", "deny", op("source.ip", "192.168.1.66"), {}),
        ("026-deny-source-port", "deny", op("source.port", "1-1023", "range"), {}),
        ("027-deny-both", "deny", both(op("process.path", "/usr/bin/curl"), op("dest.port", "53")), {}),
        ("028-deny-old", "deny", old(op("user.id", "1001"), op("dest.port", "22")), {}),
        (
            "029-reject-twice",
            "reject",
            both(op("process.path", "^/opt/", "regexp"), op("process.path", "beta$", "regexp")),
            {},
        ),
        ("030-allow-lan", "allow", op("dest.network", "LAN", "network"), {"precedence": True}),
        ("040-allow-curl", "allow", both(op("process.path", "/usr/bin/curl"), op("dest.port", "443")), {}),
        ("041-allow-sensitive", "allow", op("process.path", "/usr/bin/Wget", sensitive=True), {}),
        ("042-allow-user", "allow", op("user.name", "root"), {}),
        ("043-allow-dns", "allow", both(op("protocol", "udp"), op("dest.port", "^(53|5353)$", "regexp")), {}),
        ("044-allow-net", "allow", op("dest.network", "198.51.100.0/24", "network"), {}),
        ("045-allow-net6", "allow", op("dest.network", "2001:db8::/32", "network"), {}),
        ("046-allow-source-net", "allow", op("source.network", "10.9.0.0/16", "network"), {}),
        ("047-allow-uids", "allow", op("user.id", "2000-2010", "range"), {}),
        ("047-allow-many-uids", "allow", op("user.id", "3001-60000", "range"), {}),
        ("048-allow-ip-regexp", "allow", op("dest.ip", r"^203\.0\.113\.[0-9]$", "regexp"), {}),
        ("049-allow-tcp", "allow", both(op("protocol", "^tcp", "regexp"), op("dest.host", r"\.org$", "regexp")), {}),
        ("050-allow-command", "allow", op("process.command", "/usr/bin/python3 /srv/Job.py"), {}),
        ("051-allow-iface", "allow", op("iface.out", "wlan0"), {}),
        ("052-allow-until", "allow", op("dest.port", "8443"), {"duration": "until restart"}),
        ("053-allow-for-a-while", "allow", op("dest.port", "9443"), {"duration": "1h30m"}),
        ("054-deny-env-regexp", "deny", op("process.env.LANG", "^(tr|az)_", "regexp"), {}),
        ("054-deny-env-within", "deny", op("process.env.LANG", "klingon|vulcan", "regexp"), {}),
        ("055-reject-icmp", "reject", op("protocol", "icmp"), {}),
        ("056-off", "deny", op("true", "true"), {"enabled": False}),
        ("060-deny-md5", "deny", both(op("process.hash.md5", MD5), op("dest.port", "81")), {}),
        ("061-reject-sha1", "reject", both(op("process.hash.sha1", SHA1.upper()), op("dest.port", "82")), {}),
        ("062-deny-hashes", "deny",
         both(op("lists.hash.md5", str(lists / "hashes"), "lists"), op("dest.port", "83")), {}),
        ("063-reject-all-of-one", "reject", both(op("true", ""), op("user.id", "3000")), {}),
        ("063-reject-unset", "reject", both(op("process.env.LANG", ""), op("dest.port", "84")), {}),
        ("063-reject-unset-both", "reject",
         both(op("process.env.LANG", ""), op("process.env.VPN", ""), op("dest.port", "85")), {}),
        ("063-reject-no-command", "reject", op("process.command", ""), {}),
        ("063-reject-no-interface", "reject", op("iface.out", ""), {}),
        ("063-reject-no-path", "reject", op("process.path", ""), {}),
        ("063-reject-orphans", "reject", both(op("process.parent.path", ".*", "regexp"), op("dest.port", "86")), {}),
        ("064-deny-in", "deny", op("iface.in", "wlan9"), {}),
        ("065-deny-sctp", "deny", both(op("protocol", "sctp"), op("source.port", "2905")), {}),
        ("066-reject-udplite", "reject", op("protocol", "udplite"), {}),
        ("067-deny-sensitive", "deny", op("process.path", "^/opt/.*/Stable$", "regexp", sensitive=True), {}),
        ("999-allow-parents", "allow", op("process.parent.path", "firefox", "regexp"), {}),
    ]  # fmt: skip
    return [
        {"created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "name": name, "description": "why",
         "action": action, "duration": "always", "enabled": True, "precedence": False, "nolog": False,
         "operator": operator} | more
        for name, action, operator, more in found
    ]  # fmt: skip


LISTS = {
    "domains/a.txt": "# x\n0.0.0.0 bad.example.com\n127.0.0.1 worse.example.com\n127.0.0.1 localhost\n"
    "plain.example.com\n0.0.0.0 *.wild.example\n0.0.0.0 .dot.example\n",
    "domains/.hidden.txt": "0.0.0.0 hidden.example.com\n",
    "domains/nodot": "0.0.0.0 nodot.example.com\n",
    "regexps/a.txt": "^banner[0-9]\\.\n\\.doubleclick\\.\n",
    "ips/a.txt": "203.0.113.77\n2001:db8::bad\n",
    "nets/a.txt": "not a network\n100.100.3.4/16\n2001:db8:bad::/48\n",
    "hashes/a.txt": f"# name\n{MD5}\n" + "ff" * 16 + "\n",
}
ALIASES = {
    "LAN": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7"],
    "MULTICAST": ["224.0.0.0/4", "ff00::/8"],
}


network = cache(ipaddress.ip_network)


@cache
def lines_of(folder: Path) -> list[str]:
    """Of the files that have a dot in their names and are not hidden."""
    return [
        line
        for file in folder.iterdir()
        if "." in file.name and not file.name.startswith(".")
        for line in file.read_text().splitlines()
        if not line.startswith("#")
    ]


class TheirWay:
    """What peers' documentation says, in the plainest way."""

    def __init__(self, rules: list[dict[str, Any]], lists: Path) -> None:
        self.rules = sorted((rule for rule in rules if rule["enabled"]), key=lambda rule: str(rule["name"]))
        self.lists = lists

    def decide(self, one: dict[str, Any]) -> tuple[str, str]:
        allowed = ""
        for rule in self.rules:
            if rule["duration"] == "1h30m" and one["time"] >= NOW.timestamp() + 5400:
                continue
            if self.matches(rule["operator"], one):
                if rule["action"] == "allow" and not rule["precedence"]:
                    allowed = rule["name"]
                    continue
                return {"allow": "accept", "deny": "drop", "reject": "block"}[rule["action"]], rule["name"]
        if one["direction"] == "in":  # which it does not look at, but for rules about the interface in
            return "accept", ""
        return ("accept", allowed) if allowed else ("ask", "")

    def matches(self, operator: dict[str, Any], one: dict[str, Any]) -> bool:
        if operator["type"] == "list":
            inner = operator["list"] or json.loads(operator["data"])
            return all(self.matches(each, one) for each in inner)
        operand, data = operator["operand"], operator["data"]
        if (one["direction"] == "in") is not (operand == "iface.in"):
            return False
        if operand == "true":
            return True
        if operator["type"] == "lists":
            return self.in_list(operand, Path(data), one)
        if operand == "process.parent.path":
            return any(self.compare(operator, text) for text in one.get("ancestors", []))
        return self.compare(operator, self.value(operand, one))

    def compare(self, operator: dict[str, Any], text: str) -> bool:
        kind, data, sensitive = operator["type"], operator["data"], operator["sensitive"]
        if kind == "simple":
            if operator["operand"] == "user.name":
                return text == "0"  # root
            if operator["operand"].startswith("process.hash.") and not text:
                return True
            return bool(text == data if sensitive else text.lower() == data.lower())
        if kind == "regexp":
            return re.search(data, text, 0 if sensitive else re.IGNORECASE) is not None
        if kind == "range":
            low, _, high = data.partition("-")
            return int(low) <= int(text) <= int(high)
        assert kind == "network"
        networks = map(network, ALIASES.get(data, [data]))
        return any(ipaddress.ip_address(text) in network for network in networks)

    def in_list(self, operand: str, folder: Path, one: dict[str, Any]) -> bool:
        lines = lines_of(folder)
        host, address = one.get("name", ""), self.value("dest.ip", one)
        match operand:
            case "lists.hash.md5":
                return one["md5"] in ["", *lines]
            case "lists.domains":
                listed = {line.split()[1] for line in lines if line.startswith(("0.0.0.0 ", "127.0.0.1 "))}
                below = [one.lstrip("*") for one in listed if one.startswith(("*.", "."))]
                return host in listed - {"localhost"} or host.endswith(tuple(below))
            case "lists.domains_regexp":
                return host != "" and any(re.search(line, host, re.IGNORECASE) for line in lines)
            case "lists.ips":
                return address in lines
            case "lists.nets":
                those = [ipaddress.ip_network(line, strict=False) for line in lines if "/" in line]
                return any(ipaddress.ip_address(address) in one for one in those)
        raise AssertionError(operand)

    def value(self, operand: str, one: dict[str, Any]) -> str:
        six = "[" in one["remote"]
        ends = {
            key: (one[side].rpartition(":")[0].strip("[]"), one[side].rpartition(":")[2])
            for key, side in (("dest", "remote"), ("source", "local"))
        }
        kind, _, field = operand.partition(".")
        if kind in ends:
            if field == "host":
                return str(one.get("name", ""))
            return str(ends[kind][1] if field == "port" else ends[kind][0])
        if operand == "protocol":
            return str(one["protocol"]) + ("6" if six else "")
        if operand.startswith("process.env."):
            return str(one.get("environment", {}).get(operand.removeprefix("process.env."), ""))
        values = {
            "process.path": one["program"],
            "process.command": " ".join(one["arguments"]),
            "process.id": str(one["pid"]),
            "user.id": str(one["user"]),
            "user.name": str(one["user"]),
            "process.hash.md5": one["md5"],
            "process.hash.sha1": one["sha1"],
            "iface.out": one["interface"],
            "iface.in": one["interface"],
        }
        return str(values[operand])


SEVERAL: dict[str, list[Any]] = {
    "program": ["/usr/bin/curl", "/usr/bin/CURL", "/usr/bin/Wget", "/usr/bin/wget", "/opt/a/beta", "/opt/a/stable",
                "/opt/a/Stable", ""],
    "arguments": [["curl", "--Insecure"], ["/usr/bin/python3", "/srv/job.py"], ["curl", "--insecurely"], []],
    "ancestors": [["/usr/sbin/cron", "/sbin/init"], ["/bin/sh", "/usr/lib/firefox/firefox"], ["/usr/sbin/CRON"]],
    "environment": [{"VPN": "No", "LANG": "C"}, {"LANG": "TR_tr"}, {"LANG": "xx_Klingon"}, {"VPN": "yes"},
                    {"LANG": "", "VPN": "yes"}],
    "pid": [4711, 47],
    "user": [0, 1001, 2000, 2005, 2011, 3000, 3001, 60000, 60001],
    "protocol": ["udp", "udp", "icmp", "sctp", "udplite"],
    "source": [1, 512, 1023, 1024, 2905],
    "port": [25, 22, 53, 81, 82, 83, 84, 85, 86, 443, 5353, 6880, 6881, 6889, 6890, 8443, 9443],
    "interface": ["wlan0", "tun0", "WLAN0", "wlan9", ""],
    "direction": ["in"],
    "md5": [MD5, "ff" * 16, "00" * 16],
    "sha1": [SHA1, "00" * 20],
    "time": [5399, 5400, 5401],
    "local": ["192.168.1.66", "10.9.3.4"],
    "remote": ["127.0.0.1", "198.51.100.9", "203.0.113.7", "203.0.113.77", "100.100.3.4", "224.0.0.251", "192.168.1.1",
               "172.16.3.4", "::1", "2001:db8::5", "2001:db8::bad", "2001:db8:bad::1", "ff02::fb", "fd00::1",
               "2606:4700::1", "2606:4700::2", "2606:4700::3"],
    "name": ["ads.example.com", "track7.example.com", "track.example.com", "bad.example.com", "hidden.example.com",
             "nodot.example.com", "plain.example.com", "a.wild.example", "wild.example", "b.dot.example", "dot.example",
             "banner3.example.net", "x.doubleclick.net", "www.kernel.org", "localhost"],
}  # fmt: skip
"""What a connection has instead of what decides nothing."""
TOGETHER: list[dict[str, Any]] = [
    {"program": "/usr/bin/curl", "port": 53}, {"program": "/usr/bin/curl", "port": 443}, {"user": 1001, "port": 22},
    {"protocol": "udp", "port": 5353}, {"protocol": "sctp", "source": 2905}, {"direction": "in", "interface": "wlan9"},
]  # fmt: skip
"""What rarely comes together by chance."""


def connections() -> Iterator[dict[str, Any]]:
    """Connections that are special in one to three ways."""
    dice = random.Random(20260101)
    while True:
        one: dict[str, Any] = {
            "program": "/usr/bin/python3", "arguments": ["python3"], "ancestors": [], "environment": {}, "pid": 77,
            "user": 1000, "direction": "out", "protocol": "tcp", "source": 40000, "port": 80, "interface": "eth0",
            "local": "192.168.1.5", "remote": "8.8.8.8", "name": "", "md5": "", "sha1": "", "time": 60,
        }  # fmt: skip
        for key in dice.sample(list(SEVERAL), dice.choice([1, 2, 3])):
            one[key] = dice.choice(SEVERAL[key])
        if dice.random() < 0.2:
            one |= dice.choice(TOGETHER)
        source, port = one.pop("source"), one.pop("port")
        one["time"] += NOW.timestamp()
        if one["protocol"] == "udplite":  # whose ports have no words here
            source, port = 40000, 80
        if ":" in one["remote"]:
            one["local"], one["remote"] = "[fd00::2]", f"[{one['remote']}]"
            one["protocol"] = one["protocol"].replace("icmp", "tcp")
        if one["protocol"] == "icmp":  # which has no ports
            source = port = 0
        one["local"], one["remote"] = f"{one['local']}:{source}", f"{one['remote']}:{port}"
        yield one


def cases(plain: TheirWay, wanted: set[str]) -> list[dict[str, Any]]:
    """Four hundred connections, among them five at least that each rule decides."""
    drawn, found, count = connections(), [], Counter[str]()
    for one in drawn:
        rule = plain.decide(one)[1]
        count[rule] += 1
        if count[rule] <= 5:
            found.append(one)
        left = {rule for rule in wanted if count[rule] < 5}
        if not left:
            break
        assert count.total() < 60_000, f"these decide nothing: {left}"
    return found + list(itertools.islice(drawn, 400 - len(found)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in LISTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def carried(rules: list[dict[str, Any]], until: Callable[[int], object] | None = None) -> Any:
    def read(path: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in Path(path).iterdir()}

    return import_opensnitch(
        {f"{rule['name']}.json": json.dumps(rule).encode() for rule in rules},
        read,
        until or (lambda seconds: NOW + timedelta(seconds=seconds)),
    )


def test_forty_rules_decide_four_hundred_connections_as_documented(folder: Path) -> None:
    theirs = rules(folder)
    assert len(theirs) > 40
    found = carried(theirs, lambda seconds: NOW + timedelta(seconds=seconds))
    assert found.lost == 0, found.notes
    policy = Policy.parse(found.text())
    classifier, plain = Classifier(policy, read_world(policy, None, print)), TheirWay(theirs, folder)
    those = cases(plain, {rule["name"] for rule in theirs if rule["enabled"]} | {""})
    assert len(those) == 400
    for one in those:
        decision = classifier.decide(facts_of(one))
        assert (decision.answer.value, decision.rule) == plain.decide(one), one


def test_every_operator_and_every_form_is_there(folder: Path) -> None:
    """Those of the rules that OpenSnitch documents."""
    operators, theirs = [], rules(folder)
    for rule in theirs:
        one = rule["operator"]
        operators += [one, *(one["list"] or json.loads(one["data"]))] if one["type"] == "list" else [one]
    assert {one["type"] for one in operators} == {"simple", "regexp", "network", "list", "lists", "range"}
    assert {re.sub(r"env\..*", "env", one["operand"]) for one in operators} == {
        "true", "process.id", "process.path", "process.parent.path", "process.command", "process.env",
        "process.hash.md5", "process.hash.sha1", "user.id", "user.name", "source.ip", "source.port", "source.network",
        "dest.ip", "dest.host", "dest.port", "dest.network", "protocol", "iface.in", "iface.out", "list",
        "lists.domains", "lists.domains_regexp", "lists.ips", "lists.nets", "lists.hash.md5",
    }  # fmt: skip
    assert {one["type"] for one in operators if one.get("sensitive")} == {"simple", "regexp"}
    assert {rule["action"] for rule in theirs} == {"allow", "deny", "reject"}
    assert {rule["duration"] for rule in theirs} == {"always", "until restart", "1h30m"}
    for flag in ("precedence", "nolog", "enabled"):
        assert {rule[flag] for rule in theirs} == {True, False}
    assert [rule for rule in theirs if rule["operator"]["type"] == "list" and not rule["operator"]["list"]]


def test_what_ends_the_walk_comes_first_and_of_the_rest_the_last_wins() -> None:
    def rule(name: str, action: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "action": action, "operator": op("true", ""), "enabled": True} | more

    found = carried(
        [rule("b", "allow"), rule("a", "allow"), rule("c", "deny"), rule("d", "allow", precedence=True)]
    )
    assert [words["name"] for words in found.rules] == ["c", "d", "b", "a"]


def test_what_a_rule_has_besides() -> None:
    rule = {"name": "x", "action": "reject", "operator": op("true", ""), "enabled": False, "nolog": True}
    timed = {"name": "y", "action": "allow", "operator": op("true", ""), "duration": "1h30m"}
    restart = timed | {"name": "z", "duration": "until restart"}
    found = carried([rule, timed, restart])
    assert found.rules == [
        {"name": "x", "direction": "out", "verdict": "block", "enabled": False, "log": False},
        {"name": "z", "direction": "out", "verdict": "accept", "until": "restart"},
        {"name": "y", "direction": "out", "verdict": "accept", "until": NOW + timedelta(minutes=90)},
    ]


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("1.5h", 5400),
        ("1.1h", 3960),
        ("500ms", 1),
        ("90s", 90),
        ("1m1h", 3660),
        (".5m", 30),
        ("1h0.1s", 3601),
        ("2µs", 1),
    ],
)
def test_durations_are_those_of_go_in_whole_seconds(duration: str, seconds: int) -> None:
    found = carried([{"name": "x", "action": "allow", "operator": op("true", ""), "duration": duration}])
    assert found.rules[0]["until"] == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize("written", ["2026-01-01T00:00:00.123456789+01:00", "0001-01-01T00:00:00Z"])
def test_a_time_of_creation(written: str) -> None:
    rule = {"name": "x", "action": "allow", "operator": op("true", ""), "created": written, "updated": None}
    assert carried([rule]).lost == 0


def test_folders_of_one_name_are_different_lists() -> None:
    theirs = [
        {"name": name, "action": "deny", "operator": op("lists.domains", f"/{name}/ads", "lists")}
        for name in ("a", "b")
    ]
    found = carried(theirs)
    assert [rule["list"] for rule in found.rules] == ["ads", "ads-2"]
    assert [one["path"] for one in found.lists.values()] == ["/a/ads/*.*", "/b/ads/*.*"]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (b"{", "it is not JSON"),
        (b"[]", "it is not a rule with a name"),
        (b'{"name": "x", "action": "maybe"}', "its action is 'maybe', not allow, deny or reject"),
        ({}, "it has no operator"),
        ({"operator": both()}, "its list of operators is empty"),
        ({"operator": {"type": "list", "data": "[{"}}, "the list in its data is not JSON"),
        ({"operator": op("process.path", "(", "regexp")}, "the expression cannot be used"),
        ({"operator": op("process.tty", "1")}, "there is nothing here like the operand 'process.tty'"),
        ({"operator": op("process.path", "x", "complex")}, "there is nothing here like the type 'complex'"),
        ({"operator": op("dest.port", "http")}, "'http' is not a number"),
        ({"operator": op("dest.ip", "here")}, "'here' is no address, network or alias of one"),
        ({"operator": op("dest.port", "70000")}, "the port 70000 is too large"),
        ({"operator": op("process.id", "99999999999")}, "99999999999 is not a process id"),
        ({"operator": op("user.id", "5000000000")}, "5000000000 is not a user id"),
        ({"operator": op("process.hash.md5", "zz")}, "'zz' is not a checksum"),
        ({"operator": op("dest.ip", "fe80::1%eth0")}, "'fe80::1%eth0' is not an address"),
        (
            {"operator": op("dest.ip", "::ffff:8.8.8.8")},
            "'::ffff:808:808' is IPv4 written as IPv6; write 8.8.8.8",
        ),
        ({"operator": op("dest.port", "9-1", "range")}, "'9-1' is no range of numbers"),
        ({"operator": op("protocol", "quic")}, "there is no protocol 'quic'"),
        ({"operator": op("user.name", "no such user")}, "this host has no user 'no such user'"),
        (
            {"operator": op("lists.domains_regexp", "/not/there", "lists")},
            "the folder '/not/there' cannot be read",
        ),
        (
            {"operator": op("true", ""), "duration": "once"},
            "its duration is once, and that connection is over",
        ),
        ({"operator": op("true", ""), "duration": "soon"}, "its duration is 'soon'"),
        ({"operator": op("true", ""), "duration": "-5m"}, "its duration is '-5m'"),
        ({"operator": op("true", ""), "duration": "0s"}, "its duration is '0s'"),
        ({"operator": op("true", ""), "duration": "9999999h"}, "its duration is '9999999h'"),
        ({"operator": op("true", ""), "created": "xx"}, "its created is 'xx', not a time like 2026"),
        ({"operator": op("true", ""), "updated": ""}, "its updated is '', not a time"),
        ({"operator": op("true", ""), "created": "2026-13-01T00:00:00Z"}, "its created is '2026-13-01T"),
        ({"operator": op("user.id", "1000-9999999999", "range")}, "'1000-9999999999' is beyond"),
    ],
)
def test_what_cannot_be_carried_over_is_said(rule: Any, why: str) -> None:
    data = rule if isinstance(rule, bytes) else json.dumps({"name": "x", "action": "allow"} | rule).encode()
    found = import_opensnitch(
        {"x.json": data},
        lambda path: {file.name: b"" for file in Path(path).iterdir()},
        lambda seconds: NOW + timedelta(seconds=seconds),
    )
    assert found.lost == 1
    assert found.rules == []
    assert found.notes[0].startswith(f"x.json: not carried over: {why}")
