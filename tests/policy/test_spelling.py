"""A policy as words, and read again from them: nothing is lost."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.policy import Policy, Rule
from tidewaiter.policy.reader import RULE_KEYS
from tidewaiter.policy.spelling import policy_words, rule_words
from tidewaiter.policy.writing import toml_policy

FULL = """\
version = 1
default = {out = "ask", in = "drop"}
[geography]
country = "c.mmdb"
[group.work]
enabled = false
[list.ads]
path = ["ads.txt", "more/*.txt"]
format = "hosts"
[list.far]
url = "https://lists.example/ads.txt"
refresh = "90m"
[network.home]
interface = "wlan0"
gateway = ["192.168.1.1"]
wifi = "Home"
[[rule]]
name = "all"
program = ["/usr/bin/curl", "/opt/", "/usr/bin/*", "re:x$", ""]
arguments = "*-k*"
ancestors = "/bin/sh"
environment = "A=*"
package = "curl"
script = "/srv/"
app = "snap:*"
user = [0, "re:^1"]
user_group = 5
pid = 7
unit = "a.service"
cgroup = "/user.slice/"
container = "0123456789ab"
direction = ["out", "in"]
protocol = ["tcp", "udp6", 47]
port = ["443/tcp", "8000-8100", "icmp", 53]
remote_port = "https"
local_port = "1-5/udp"
interface = "eth*"
remote = ["192.0.2.1", "10.0.0.0/8", "fd00::/8", "link", "re:^8"]
local = "::1"
country = ["DE", ""]
continent = "EU"
asn = ["AS5", 6]
host = [".example.com", "*.x", "y.z", "re:^a", ""]
asked_host = "b.c"
list = "ads"
time = ["08:00-18:00", "22:00-24:00"]
weekday = ["mon", "sat-sun"]
network = ["home", "elsewhere"]
not = {remote = "10.1.0.0/16", user = 3, weekday = "mon"}
also = [{protocol = "tcp", not.port = 22}, {program = "re:y"}]
verdict = "limit"
limit = {down = "1 MB/s", up = "8 kbit/s"}
group = "work"
enabled = false
log = false
until = 2030-01-31T18:00:00Z
[[rule]]
name = "ask mine"
verdict = "python: a.b.c"
until = "restart"
[[rule]]
verdict = "redirect-tunnel"
"""


def test_what_is_written_is_what_was_read() -> None:
    policy = Policy.parse(FULL)
    words = policy_words(policy)
    assert set(words["rule"][0]) >= set(RULE_KEYS) - {"sha256", "sha1", "md5"}
    again = Policy.parse(toml_policy(words))
    assert again == replace(policy, defaults=again.defaults)
    assert policy_words(again) == words


@given(st.data())
@settings(max_examples=100 * FUZZ)
def test_drawn_rules_survive(
    policy_cases: st.SearchStrategy[tuple[Policy, object]], data: st.DataObject
) -> None:
    policy = data.draw(policy_cases)[0]
    rules = tuple(replace(rule, name=f"r{n}") for n, rule in enumerate(policy.rules))
    spans = [span for rule in rules for span in (*rule.ports, *rule.none_of.get("port", ()))]
    if any(span.protocol not in {None, 1, 6, 17, 58, 132} for span in spans):
        return  # a rule made in Python may name ports of a protocol that a file cannot
    if any(span.protocol in {1, 58} and span.low + 65535 != span.high for span in spans):
        return
    text = toml_policy({"rule": [rule_words(rule) for rule in rules]})
    assert [_ordered(rule) for rule in Policy.parse(text).rules] == [_ordered(rule) for rule in rules]


def _ordered(rule: Rule) -> Rule:
    """Directions have no order: a file has them in one of its own."""
    none_of = dict(rule.none_of)
    if "direction" in none_of:
        none_of["direction"] = tuple(sorted(none_of["direction"]))
    return replace(rule, none_of=none_of)
