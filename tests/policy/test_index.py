"""Every dimension, with not, also, groups and what is not known, against a plain loop over the words of the rules.

The loop knows only docs/reference/policy.md: it is given the words of a policy file and a connection as JSON has it.
"""

from __future__ import annotations

import re
import time
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.policy import Classifier, Policy, compile_tables
from tidewaiter.policy.connection import facts_of
from tidewaiter.policy.dimensions import DIMENSIONS
from tidewaiter.policy.explain import Explainer
from tidewaiter.policy.index import Index, bit_set, blocks
from tidewaiter.policy.rule import World
from tidewaiter.policy.world import PlainList
from tidewaiter.policy.writing import toml_policy

HEX = "ab" * 32
CONTAINER = "0123456789ab" + "c" * 52
LISTS = {"ads": "ads.example.com\n198.51.100.0/24\n*.deep.example\n", "bad": "203.0.113.9\nwww.example.com\n"}
MONDAY = time.mktime((2026, 1, 5, 0, 0, 0, 0, 0, -1))

PHASES = [
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
    Phase.shrink,
]  # to explain takes longer than a test may

Words = dict[str, Any]

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


def glob(text: str, *, path: bool = False) -> str:
    one = "[^/]" if path else "."
    return "".join(
        {"\0": ".*", "*": f"{one}*" if path else ".*", "?": one}.get(sign, re.escape(sign))
        for sign in text.replace("**", "\0")
    )


def text_matches(word: str, text: str, *, path: bool = False, host: bool = False) -> bool:
    if word == "" or text == "":
        return word == text
    if word.startswith("re:"):
        return re.search(word[3:], text) is not None
    if "*" in word:
        return re.fullmatch(glob(word, path=path), text, re.DOTALL) is not None
    if host and word.startswith("."):
        return text == word[1:] or text.endswith(word)
    if path and word.endswith("/"):
        return text.startswith(word)
    return word == text


SCOPES = {
    "localhost": ["127.0.0.0/8", "0.0.0.0/32", "::1", "::"],
    "link": ["169.254.0.0/16", "fe80::/10"],
    "lan": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"],
    "multicast": ["224.0.0.0/4", "255.255.255.255", "ff00::/8"],
}


def inside(word: str, text: str) -> bool:
    address = ip_address(text)
    scopes = {name for name, nets in SCOPES.items() if any(address in ip_network(net) for net in nets)}
    if word.startswith("re:"):
        return re.search(word[3:], text) is not None
    if word in SCOPES or word == "internet":
        return word in (scopes or {"internet"})
    return address in ip_network(word)


NUMBERS: dict[Any, int] = {"tcp": 6, "udp": 17, "icmp": 1, "sctp": 132}


def port_matches(word: Any, port: int, protocol: int) -> bool:
    ports, _, name = str(word).partition("/")
    if ports in NUMBERS:
        return protocol == NUMBERS[ports]
    low, _, high = {"https": "443"}.get(ports, ports).partition("-")
    return int(low) <= port <= int(high or low) and (
        protocol == NUMBERS[name] if name else protocol in {6, 17, 132}
    )


def matches(dimension: str, word: Any, one: Words) -> bool:
    """Whether a connection satisfies one word of one dimension."""
    remote, _, remote_port = one["remote"].rpartition(":")
    remote = remote.strip("[]")
    local, _, local_port = one["local"].rpartition(":")
    protocol: Any = NUMBERS.get(one["protocol"], one["protocol"])
    names = [one["name"], *one.get("aliases", [])] if one.get("name") else []
    match dimension:
        case "program" | "script" | "cgroup":
            return text_matches(word, one.get(dimension, ""), path=True)
        case "ancestors":
            return any(text_matches(word, text, path=True) for text in one.get("ancestors") or [""])
        case "environment":
            return any(
                text_matches(word, f"{name}={text}") for name, text in one.get("environment", {}).items()
            )
        case "arguments":
            return text_matches(word, " ".join(one.get("arguments", [])))
        case "user" | "user_group" | "pid" | "asn":
            have = one.get(dimension) or ("" if dimension in {"pid", "asn"} else one.get(dimension, ""))
            have = "" if have == "nobody there" else have
            return str(word).removeprefix("AS") == str(have)
        case "container" if len(word) == 12:
            return bool(one.get("container", "").startswith(word))
        case "direction":
            return bool(one["direction"] == word)
        case "protocol":
            name = str(word)
            if name[-1] in "46" and name[:-1] in NUMBERS:
                return protocol == NUMBERS[name[:-1]] and (":" in remote) == (name[-1] == "6")
            return bool(protocol == NUMBERS.get(name, word))
        case "port":
            return port_matches(word, int(local_port if one["direction"] == "in" else remote_port), protocol)
        case "remote_port":
            return port_matches(word, int(remote_port), protocol)
        case "local_port":
            return port_matches(word, int(local_port), protocol)
        case "remote" | "local":
            return inside(word, remote if dimension == "remote" else local.strip("[]"))
        case "host":
            return any(text_matches(word, text, host=True) for text in names or [""])
        case "asked_host":
            return text_matches(word, names[0] if names else "", host=True)
        case "list":
            lines = LISTS[word].split()
            return any(
                (line[0].isdigit() and ip_address(remote) in ip_network(line))
                or (
                    line.startswith("*.")
                    and any(name == line[2:] or name.endswith(line[1:]) for name in names)
                )
                or line in names
                for line in lines
            )
        case "time":
            now = time.strftime("%H:%M", time.localtime(one["time"])) if one.get("time") else ""
            start, _, end = word.partition("-")
            return now != "" and (start <= now < end if start < end else now >= start or now < end)
        case "weekday":
            days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            if not one.get("time"):
                return False
            first, _, last = word.partition("-")
            span = (days * 2)[days.index(first) :]
            today = days[time.localtime(one["time"]).tm_wday]
            return today in span[: span.index(last or first) + 1]
        case "network":
            return word in (one.get("network") or ["elsewhere"])
        case _:
            return text_matches(word, one.get(dimension, ""))


def satisfied(table: Words, one: Words, pending: set[str]) -> bool | None:
    """All of a table's conditions; None: it depends on what is not known yet."""
    undecided = False
    for dimension, words in table.items():
        if dimension in {"not", "also", "name", "verdict", "enabled", "group"}:
            continue
        if dimension in pending or ("host" in pending and dimension in {"asked_host", "list"}):
            undecided = True
        elif not any(matches(dimension, word, one) for word in words):
            return False
    for dimension, words in table.get("not", {}).items():
        if dimension in pending or ("host" in pending and dimension in {"asked_host", "list"}):
            undecided = True
        elif any(matches(dimension, word, one) for word in words):
            return False
    for inner in table.get("also", []):
        found = satisfied(inner, one, pending)
        if found is False:
            return False
        undecided |= found is None
    return None if undecided else True


def first_match(rules: list[Words], one: Words) -> tuple[int, bool]:
    """The first rule that is not sure not to match, and whether it is sure."""
    for index, rule in enumerate(rules):
        if rule.get("enabled") is False or rule.get("group") == "off":
            continue
        found = satisfied(rule, one, set(one.get("pending", [])))
        if found is not False:
            return index, found is True
    return len(rules), True


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


WORLD = World({name: PlainList(text.splitlines()) for name, text in LISTS.items()})


def parse(rules: list[Words]) -> Policy:
    rules = [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]
    words = {
        "list": {name: {"path": name} for name in LISTS},
        "network": {"home": {"interface": "eth0"}},
        "group": {"off": {"enabled": False}, "on": {}},
        "rule": rules,
    }
    return Policy.parse(toml_policy(words))


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
    for one in those:
        facts = facts_of(one)
        index, sure = first_match(rules, one)
        decision = classifier.decide(facts)
        assert (min(decision.index, len(rules)), not decision.missing) == (index, sure)
        explained = explainer.explain(facts)
        assert (explained.rule.name if explained.rule else None) == (
            f"r{index}" if index < len(rules) else None
        )
        assert all(passed.unmet for passed in explained.above)
    bit = tables.lookup(facts)  # what the kernel is sure of is so
    assert tables.actions[bit].consult or bit == decision.index


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
