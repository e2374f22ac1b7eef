"""Every dimension, with not, also, groups and what is not known, against a plain loop over the words of the rules.

Here hypothesis draws each word, for policies of a few rules; test_differential.py is about policies of hundreds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from policy.homes import Listed
from policy.oracle import Loop, Seen, Words
from strategies import FUZZ
from tidewaiter.model.key import Address
from tidewaiter.policy import Classifier, Policy, compile_tables
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.details import Told
from tidewaiter.policy.dimensions import ALL, DIMENSIONS
from tidewaiter.policy.explain import Explainer
from tidewaiter.policy.index import Index, bit_set, blocks
from tidewaiter.policy.rule import World
from tidewaiter.policy.writing import toml_policy

HEX = "ab" * 32
CONTAINER = "0123456789ab" + "c" * 52
LISTS = {
    "ads": ["ads.example.com", "198.51.100.0/24", "*.deep.example"],
    "bad": ["203.0.113.9", "www.example.com"],
}
MONDAY = time.mktime((2026, 1, 5, 0, 0, 0, 0, 0, -1))

PHASES = [
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
    Phase.shrink,
]  # to explain takes longer than a test may

# dimension: the words that rules draw from, and what connections have
WORDS: dict[str, list[Any]] = {
    "program": ["/usr/bin/curl", "/usr/bin/", "/usr/**/ssh", "/usr/bin/c*", "re:^/opt/", ""],
    "arguments": ["curl -k", "*-k*", "re:--in.ecure", ""],
    "ancestors": ["/usr/sbin/cron", "/usr/", ""],
    "environment": ["VPN=no", "LANG=*"],
    "sha256": [HEX, ""],
    "package": ["curl", "lib*", ""],
    "script": ["/srv/a.py", "/srv/", "-m http.server", ""],
    "app": ["snap:firefox", "flatpak:*", ""],
    "user": [0, 1000, "1001", ""],
    "user_group": [0, 100, ""],
    "pid": [1, 4711, ""],
    "unit": ["nginx.service", "ssh*", ""],
    "cgroup": ["/people/", "/system/nginx", "/a/*", ""],
    "container": [CONTAINER, CONTAINER[:12], ""],
    "direction": ["out", "in", "forward"],
    "protocol": ["tcp", "udp6", "tcp4", 47, "icmp"],
    "port": [443, "https/tcp", "8000-8100", "53/udp", "udp"],
    "remote_port": [443, "1-1024"],
    "local_port": [443, "40000-65535/tcp"],
    "interface": ["eth0", "wl*", ""],
    "remote": ["192.0.2.1", "198.51.100.0/24", "2001:db8::/32", "lan", "internet", "multicast", "re:^203\\."],
    "local": ["10.0.0.1", "lan", "::1", "localhost"],
    "country": ["DE", "US", ""],
    "continent": ["EU", ""],
    "asn": ["AS64500", 64501, ""],
    "host": ["www.example.com", ".example.com", "*.example.*", "re:^ads[0-9]*\\.", ""],
    "asked_host": ["www.example.com", ".deep.example", ""],
    "list": ["ads", "bad"],
    "time": ["08:00-18:00", "22:00-06:00"],
    "weekday": ["mon", "sat-mon", "tue-fri"],
    "network": ["home", "elsewhere"],
}
HAVE: dict[str, list[Any]] = {
    "program": ["/usr/bin/curl", "/usr/lib/a/ssh", "/usr/bin/a/curl", "/opt/x", ""],
    "arguments": [["curl", "-k"], ["curl", "--insecure"], []],
    "ancestors": [["/bin/sh", "/usr/sbin/cron"], ["/bin/sh"], []],
    "environment": [{"VPN": "no"}, {"LANG": "C", "VPN": "yes"}, {}],
    "sha256": [HEX, "cd" * 32, ""],
    "package": ["curl", "libfoo", ""],
    "script": ["/srv/a.py", "/srv/b/c.py", "-m http.server", "b.py"],
    "app": ["snap:firefox", "flatpak:org.x", ""],
    "user": [0, 1000, 1001, "nobody there"],
    "user_group": [0, 100, 101],
    "pid": [1, 4711, 0],
    "unit": ["nginx.service", "sshd.service", ""],
    "cgroup": ["/people/x", "/people", "/system/nginx", "/a/b", "/a/b/c", ""],
    "container": [CONTAINER, "f" * 64, ""],
    "direction": ["out", "in", "forward"],
    "protocol": ["tcp", "udp", 47, "icmp"],
    "interface": ["eth0", "wlan0", ""],
    "remote": [
        "192.0.2.1:443", "198.51.100.7:8000", "198.51.100.7:8100", "[2001:db8::5]:443", "10.1.1.1:53", "[fe80::1]:1024",
        "[ff02::1]:1025", "203.0.113.9:53", "[2606:4700::1]:443", "224.0.0.1:5353", "127.0.0.1:80",
    ],
    "local": [443, 39999, 40000, 65535],
    "country": ["DE", "US", ""],
    "continent": ["EU", "AS"],
    "asn": [64500, 64501, 0],
    "name": ["www.example.com", "example.com", "notexample.com", "ads7.example.net", "x.deep.example",
             "ads.example.com"],
    "aliases": [["www.example.com"], ["a.deep.example", "ads.example.com"]],
    "time": [MONDAY + 3600 * hour + 86400 * day + 59 for hour in (0, 5, 6, 8, 17, 18, 22) for day in (0, 1, 5, 6)],
    "network": [["home"], ["work"], []],
}  # fmt: skip


def conditions(most: int) -> st.SearchStrategy[Words]:
    def values(names: list[str]) -> st.SearchStrategy[Words]:
        return st.fixed_dictionaries(
            {name: st.lists(st.sampled_from(WORDS[name]), min_size=1, max_size=3) for name in names}
        )

    return st.lists(st.sampled_from(sorted(WORDS)), max_size=most, unique=True).flatmap(values)


@st.composite
def rule_words(draw: st.DrawFn) -> Words:
    rule = dict(draw(conditions(3)))
    if draw(st.integers(0, 2)) == 0:
        rule["not"] = draw(conditions(2))
    if draw(st.integers(0, 3)) == 0:
        rule["also"] = [dict(draw(conditions(2))) for _ in range(draw(st.integers(1, 2)))]
        if draw(st.booleans()):
            rule["also"][0]["not"] = draw(conditions(1))
    if draw(st.integers(0, 9)) == 0:
        rule["enabled"] = False
    if draw(st.integers(0, 5)) == 0:
        rule["group"] = draw(st.sampled_from(["on", "off"]))
    return rule | {"verdict": draw(st.sampled_from(["accept", "block", "drop", "ask"]))}


@st.composite
def connections(draw: st.DrawFn) -> Words:
    keys = draw(st.lists(st.sampled_from(sorted(set(HAVE) - {"remote", "local"})), unique=True))
    one = {key: draw(st.sampled_from(HAVE[key])) for key in keys}
    one["remote"] = draw(st.sampled_from(HAVE["remote"]))
    local = "[::1]" if "[" in one["remote"] else draw(st.sampled_from(["10.0.0.1", "127.0.0.1", "192.0.2.7"]))
    one["local"] = f"{local}:{draw(st.sampled_from(HAVE['local']))}"
    if "name" not in one:
        one.pop("aliases", None)
    one.setdefault("direction", "out")
    if one.get("protocol") == "icmp" and "[" in one["remote"]:
        one["protocol"] = "udp"
    one.setdefault("protocol", "tcp")
    if draw(st.integers(0, 3)) == 0:
        one["pending"] = draw(
            st.lists(st.sampled_from(["host", "sha256", "package"]), min_size=1, unique=True)
        )
    return one


WORLD = World({name: Listed(lines) for name, lines in LISTS.items()})


def words_of(rules: list[Words]) -> Words:
    return {
        "list": {name: {"path": name} for name in LISTS},
        "network": {"home": {"interface": "eth0"}},
        "group": {"off": {"enabled": False}, "on": {}},
        "rule": [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)],
    }


def parse(rules: list[Words]) -> Policy:
    return Policy.parse(toml_policy(words_of(rules)))


def test_every_dimension_is_tried() -> None:
    assert set(DIMENSIONS) - set(WORDS) == {"sha1", "md5"}  # which are as sha256 is


@given(st.lists(rule_words(), max_size=6), st.lists(connections(), min_size=1, max_size=8))
@settings(max_examples=150 * FUZZ, deadline=None, phases=PHASES)
def test_it_agrees_with_a_plain_loop_over_the_words(rules: list[Words], those: list[Words]) -> None:
    policy = parse(rules)
    classifier, explainer, tables = (
        Classifier(policy, WORLD),
        Explainer(policy, WORLD),
        compile_tables(policy),
    )
    loop = Loop.over(words_of(rules))
    for one in those:
        facts = facts_of(one)
        index, sure = loop.first(Seen(one, LISTS))
        decision = classifier.decide(facts)
        assert classifier.decide(facts) == decision, "kept"
        assert facts.pending or classifier._decide_by_sets(facts) == decision
        assert (min(decision.index, len(rules)), not decision.missing) == (index, sure)
        explained = explainer.explain(facts)
        assert (explained.rule.name if explained.rule else None) == (
            f"r{index}" if index < len(rules) else None
        )
        assert all(passed.unmet for passed in explained.above)
    bit = tables.lookup(facts)  # what the kernel is sure of is so
    assert tables.actions[bit].consult or tables.index(bit) == decision.index


@given(st.lists(rule_words(), max_size=8), st.data(), st.lists(connections(), min_size=1, max_size=4))
@settings(max_examples=50 * FUZZ, deadline=None, phases=PHASES)
def test_a_policy_that_was_changed_decides_as_one_made_anew(
    rules: list[Words], data: st.DataObject, those: list[Words]
) -> None:
    classifier = Classifier(parse(rules), WORLD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(rules)))
        rules = [
            *rules[:at],
            *data.draw(st.lists(rule_words(), max_size=2)),
            *rules[at + data.draw(st.integers(0, 2)) :],
        ]
        policy = parse(rules)
        classifier.update(policy)
        anew = Classifier(policy, WORLD)
        assert classifier.dimensions == anew.dimensions
        for one in those:
            facts = facts_of(one)
            assert classifier.decide(facts) == anew.decide(facts)
            assert facts.pending or classifier._decide_by_sets(facts) == anew.decide(facts)


class Places:
    """Each address is in a country of its own."""

    def country(self, address: Address, /) -> str:
        return str(address)

    continent = country

    def asn(self, address: Address, /) -> int:
        return int(address)


@given(connections(), connections())
def test_a_value_is_made_of_what_its_dimension_says_and_of_nothing_else(one: Words, other: Words) -> None:
    these, those = facts_of(one), facts_of(other)
    for dimension in DIMENSIONS.values():
        mixed = those
        for attribute in dimension.of:
            if attribute.startswith("details."):
                name = attribute.removeprefix("details.")
                assert isinstance(mixed.details, Told)
                told = replace(mixed.details, **{name: getattr(these.details, name)})
                mixed = mixed._replace(details=told)
            elif attribute == "port":
                mixed = mixed._replace(
                    direction=these.direction, local_port=these.local_port, remote_port=these.remote_port
                )
            else:
                mixed = mixed._replace(**{attribute: getattr(these, attribute)})
        value = dimension.getter(replace(WORLD, geography=Places()))
        if dimension.of:
            assert value(mixed) == value(these), dimension.name


def test_only_what_is_made_of_the_time_is_not_kept() -> None:
    assert [name for name, one in ALL.items() if not one.of] == ["time", "weekday", "until"]


@given(st.integers(0, 1 << 130), st.integers(0, 1 << 130))
def test_blocks_are_the_span_and_nothing_else(one: int, other: int) -> None:
    low, high = sorted((one, other))
    at = low
    for bits, prefix in blocks((low, high)):
        assert prefix << bits == at
        at += 1 << bits
    assert at == high + 1


@given(st.sets(st.integers(0, 300)))
def test_a_bit_set(places: set[int]) -> None:
    assert bit_set(places, 301) == sum(1 << place for place in places)


def test_what_is_kept_has_a_bound() -> None:
    policy = Policy.parse('version = 1\n[[rule]]\nhost = "*.example"\nverdict = "drop"\n')
    classifier = Classifier(policy)
    (index,) = classifier._indexes.values()
    assert isinstance(index, Index)
    index._room = 100
    for number in range(1000):
        decision = classifier.decide(facts_of({"remote": "192.0.2.1:1", "name": f"{number}.example"}))
        assert decision.index == 0
        assert len(index._kept) <= 100
