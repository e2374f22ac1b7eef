"""A list of Portmaster's endpoint rules, decided as its documentation says: each entity, protocol and port form."""

from __future__ import annotations

import ipaddress
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tidewaiter.policy import Classifier, Policy
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.portmaster import import_portmaster
from tidewaiter.service.world import read_world

RULES = """\
# the own list, then the global one
- 203.0.113.66
+ 203.0.113.0/24 TCP/443   # shop
- 203.0.113.0/24
+ 2001:db8:1::/48 UDP/1000-2000
- 2001:db8:1::1
- Localhost TCP/631
+ Localhost
+ LAN UDP/DNS
- LAN TCP/HTTP
- Internet */25
- Internet TCP/6881-6889
- ads.example.com
+ www.example.com
- .tracking.example
+ .example.net TCP/443
- *xample.org
+ cdn.* TCP
- *banner*
- *.evil.example UDP
+ L:GOOD
- L:BAD,UGLY
- AS64500
+ AS64501 TCP/443
- C:AS
- C:OC */443
+ US TCP/443
- KP
+ DE 17
- FR ICMP
+ 198.51.100.7 132
- 198.51.100.8 */53-54
- LAN,Internet 47
+ 192.0.2.1 6/HTTPS
- 192.0.2.1 TCP/1-65535
+ exact.example.info. TCP/8443
- example.* TCP
+ CH
- Localhost,LAN UDP
- * TCP/23
- *
"""
LISTS = {
    "GOOD.txt": "good.example.biz\n198.18.5.0/24\n",
    "BAD.txt": "bad.example.biz\n",
    "UGLY.txt": "203.0.114.0/24\n2001:db8:bad::/48\n",
}
NUMBERS = {"TCP": 6, "UDP": 17, "ICMP": 1, "SCTP": 132, "GRE": 47}
PORTS = {"HTTP": 80, "HTTPS": 443, "DNS": 53}
SCOPES = {
    "Localhost": ["127.0.0.0/8", "::1/128"],
    "LAN": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"],
}


network = cache(ipaddress.ip_network)


class TheirWay:
    """The first line that matches, in the plainest way."""

    def __init__(self, lines: list[str], lists: dict[str, str]) -> None:
        self.lines = [line.partition("#")[0].split() for line in lines]
        self.lists = lists

    def decide(self, one: dict[str, Any]) -> tuple[str, str]:
        """The verdict, and the rule by the name that it gets here."""
        for words in self.lines:
            if len(words) < 2:
                continue
            sign, entity, service = words[0], words[1], words[2] if len(words) > 2 else "*"
            met = self.entity(entity, sign, one)
            if met is None:
                return "block", f"{' '.join(words)}, nothing known"
            if met and self.service(service, one):
                return "accept" if sign == "+" else "block", " ".join(words)
        return "accept", ""

    def service(self, text: str, one: dict[str, Any]) -> bool:
        name, _, ports = text.partition("/")
        protocol = NUMBERS[one["protocol"].upper()]
        if name != "*" and protocol != (int(name) if name.isdigit() else NUMBERS[name]):
            return False
        if not ports:
            return True
        low, _, high = ports.partition("-")
        port = int(one["remote"].rpartition(":")[2])
        ends = [PORTS[end] if end in PORTS else int(end) for end in (low, high or low)]
        return protocol not in {1, 47} and ends[0] <= port <= ends[1]

    def entity(self, text: str, sign: str, one: dict[str, Any]) -> bool | None:
        """None: what has to be known is missing."""
        address = ipaddress.ip_address(one["remote"].rpartition(":")[0].strip("[]"))
        if text == "*":
            return True
        for key, prefix in (("continent", "C:"), ("asn", "AS")):
            if text.startswith(prefix) and text[len(prefix) :].isalnum():
                return None if key not in one else str(one[key]) == text[len(prefix) :]
        if len(text) == 2 and text.isupper():
            return None if "country" not in one else one["country"] == text
        if text.startswith("L:"):
            return any(self.listed(name, address, one) for name in text[2:].split(","))
        if text.split(",", maxsplit=1)[0] in {*SCOPES, "Internet"}:
            scope = next(
                (name for name, nets in SCOPES.items() if any(address in network(net) for net in nets)),
                "Internet",
            )
            return scope in text.split(",")
        try:
            return address in network(text)
        except ValueError:
            pass
        names = [one["name"], *one.get("aliases", [])] if "name" in one else []
        return any(self.domain(text.rstrip("."), name) for name in (names if sign == "-" else names[:1]))

    def listed(self, name: str, address: Any, one: dict[str, Any]) -> bool:
        for line in self.lists[f"{name}.txt"].split():
            if line[0].isdigit() and address in network(line):
                return True
            if line in [one.get("name"), *one.get("aliases", [])]:
                return True
        return False

    def domain(self, text: str, name: str) -> bool:
        if text.startswith("."):
            return name == text[1:] or name.endswith(text)
        if text.startswith("*") and text.endswith("*"):
            return text.strip("*") in name
        if text.startswith("*"):
            return name.endswith(text[1:])
        if text.endswith("*"):
            return name.startswith(text[:-1])
        return name == text


SEVERAL: dict[str, list[Any]] = {
    "address": ["203.0.113.66", "203.0.113.5", "203.0.114.5", "2001:db8:1::1", "2001:db8:1::5", "2001:db8:bad::1",
                "127.0.0.1", "::1", "192.168.1.1", "fd00::1", "fe80::1", "169.254.3.3", "198.51.100.7", "198.51.100.8",
                "192.0.2.1", "198.18.5.6", "8.8.8.8", "8.8.8.8", "2606:4700::1"],
    "protocol": ["tcp", "tcp", "tcp", "udp", "udp", "sctp", "gre", "icmp"],
    "port": [23, 25, 53, 54, 80, 443, 631, 1500, 2001, 6881, 8443],
    "name": ["", "", "", "ads.example.com", "www.example.com", "tracking.example", "a.tracking.example",
             "x.example.net", "example.net", "an.example.org", "myexample.org", "cdn.fast.example",
             "a-banner.example.com", "evil.example", "x.evil.example", "good.example.biz", "bad.example.biz",
             "exact.example.info", "example.com"],
    "aliases": [[], [], ["ads.example.com"], ["a.tracking.example"], ["www.example.com"]],
    "country": ["US", "KP", "DE", "FR", "CH", "SE", None],
    "continent": ["AS", "OC", "EU", "NA", None],
    "asn": [64500, 64501, 64502, 64502, None],
}  # fmt: skip
USUAL: dict[str, Any] = {
    "name": "",
    "aliases": [],
    "address": "8.8.8.8",
    "continent": "EU",
    "asn": 64502,
    "country": "SE",
}
TOGETHER: list[dict[str, Any]] = [
    {"address": "192.0.2.1", "protocol": "tcp", "port": 443}, {"protocol": "tcp", "port": 443, "country": "US"},
    {"name": "exact.example.info", "protocol": "tcp", "port": 8443}, {"country": "FR", "protocol": "icmp"},
    {"address": "198.51.100.7", "protocol": "sctp", "port": 1500},
]  # fmt: skip
"""What rarely comes together by chance."""


def connections() -> Iterator[dict[str, Any]]:
    dice = random.Random(7)
    while True:
        one = {key: dice.choice(values) for key, values in SEVERAL.items()}
        if dice.random() < 0.3:
            one |= USUAL | dice.choice(TOGETHER)
        address = one.pop("address")
        if ":" in address and one["protocol"] == "icmp":
            one["protocol"] = "udp"
        port = one.pop("port") if one["protocol"] not in {"icmp", "gre"} else one.pop("port") * 0
        one["remote"] = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if not one["name"]:
            one["aliases"] = []
        yield {key: value for key, value in one.items() if value not in ("", [], None)}


def cases(plain: TheirWay, wanted: set[str]) -> list[dict[str, Any]]:
    """Four hundred connections, among them two at least that each rule decides."""
    drawn, found, count = connections(), [], Counter[str]()
    for one in drawn:
        rule = plain.decide(one)[1]
        count[rule] += 1
        if count[rule] <= 2:
            found.append(one)
        left = {rule for rule in wanted if count[rule] < 2}
        if not left:
            break
        assert count.total() < 60_000, f"these decide nothing: {left}"
    return found + list(itertools.islice(drawn, 400 - len(found)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_forty_rules_decide_four_hundred_connections_as_documented(folder: Path) -> None:
    lines = RULES.splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 40
    found = import_portmaster(lines, lists=str(folder))
    assert found.lost == 0, found.notes
    policy = Policy.parse(found.text())
    classifier, plain = Classifier(policy, read_world(policy, None, print)), TheirWay(lines, LISTS)
    wanted = {" ".join(words) for words in plain.lines if words}
    geography = {"- AS64500", "- C:AS", "+ US TCP/443"}  # the first of each kind: it meets what is not known
    those = cases(plain, wanted | {f"{rule}, nothing known" for rule in geography})
    assert len(those) == 400
    for one in those:
        decision = classifier.decide(facts_of(one))
        assert (decision.answer.value, decision.rule) == plain.decide(one), one


def test_every_entity_and_every_form_is_there() -> None:
    """Those of peers' documentation: each pattern fits an entity or a service of the list."""
    lines = [line.partition("#")[0].split() for line in RULES.splitlines()]
    entities = [words[1] for words in lines if words]
    services = [words[2] for words in lines if len(words) > 2]
    for form in (
        r"[0-9.]+", r"[0-9a-f:]+::[0-9a-f]+", r"[0-9.]+/[0-9]+", r"[0-9a-f:]+/[0-9]+", "Localhost", "LAN", "Internet",
        r"\w+,\w+", r"[a-z]+\.[a-z.]+", r"\.[a-z.]+", r"\*[a-z.]+", r"[a-z]+\.\*", r"\*[a-z]+\*", "[A-Z]{2}",
        "C:[A-Z]{2}", r"AS\d+", r"L:\w+", r"L:\w+,\w+", r"\*",
    ):  # fmt: skip
        assert any(re.fullmatch(form, entity) for entity in entities), form
    for form in (
        "[A-Z]+", r"\d+", r"[A-Z]+/\d+", r"[A-Z]+/\d+-\d+", "[A-Z]+/[A-Z]+", r"\*/\d+", r"\*/\d+-\d+", r"\d+/[A-Z]+",
    ):  # fmt: skip
        assert any(re.fullmatch(form, service) for service in services), form
    assert any("#" in line for line in RULES.splitlines()[1:])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("example.com", "it does not begin with + or -"),
        ("+", "it is not ENTITY [PROTOCOL[/PORT]]"),
        ("+ a b c", "it is not ENTITY [PROTOCOL[/PORT]]"),
        ("- C:DE", "there is no continent 'DE'"),
        ("- L:TRAC", "say by --lists in which folder the filter lists are"),
        ("- L:a/../b", "'L:a/../b' names no filter lists"),
        ("+ ex*mple.com", "'ex*mple.com' is no entity"),
        ("- fe80::1%eth0", "'fe80::1%eth0' is not an address or a network"),
        ("- ::ffff:1.2.3.4", "'::ffff:102:304' is IPv4 written as IPv6; write 1.2.3.4/32"),
        ("- AS4294967296", "'AS4294967296' is not an autonomous system"),
        ("+ a@b", "'a@b' is no entity"),
        ("+ * FOO/1", "there is no protocol 'FOO'"),
        ("+ * TCP/nothing", "'nothing' is no port"),
        ("+ * TCP/70000", "'70000' is no port"),
        ("+ * TCP/9-3", "the ports 9-3 run backwards"),
        ("+ * 47/5", "47 has no ports here"),
    ],
)
def test_what_cannot_be_carried_over_is_said(line: str, why: str) -> None:
    found = import_portmaster(["+ LAN", line, "# nothing", ""], "endpoints")
    assert found.lost == 1
    assert [words["name"] for words in found.rules] == ["+ LAN"]
    assert found.notes[1].startswith(f"endpoints:2: not carried over: {why}")


def test_a_comment_and_the_direction_are_kept() -> None:
    found = import_portmaster(["- KP   # no"], direction="in")
    assert [(words["verdict"], words["direction"], words["country"]) for words in found.rules] == [
        ("block", "in", ""),
        ("block", "in", "KP"),
    ]
    assert "# no\n" in found.text()
    assert found.default == {"out": "accept", "in": "block"}
