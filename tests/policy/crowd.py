"""Policies of up to hundreds of rules, and connections that lie near the edges of their rules, drawn from one number.

One number, since a policy of six hundred rules is more than hypothesis draws choice by choice. What fails is made
small by `smallest`.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from policy.material import END, KERNEL, KEY_OF, LISTS, LOOSE, PROGRAMS, SITES, USERS, VALUES, Material
from policy.oracle import NO_DIMENSION, PROTOCOLS, SCOPES, SERVICES, WITH_PORTS, Words, asks

Address = tuple[int, int]
"""The IP version and the number."""

TRIES = 40
"""How often `smallest` asks: what cannot be made small in that is told as it is."""


class Crowd:
    """One policy (``words``) as the file has it, and what draws more like it."""

    def __init__(
        self,
        seed: int,
        *,
        size: int | None = None,
        loose: float | None = None,
        of: Material = Material(),  # noqa: B008
    ) -> None:
        """``size`` rules, of which ``loose`` is the share that needs more than tables: drawn too if left out."""
        self.dice = dice = random.Random(seed)
        self.of = of
        self.size = dice.choice([1, 3, 12, 40, 120, 257, 300, 600]) if size is None else size
        self.loose = dice.choice([0, 0, 0.004, 0.02, 0.1, 1]) if loose is None else loose
        self.breadth = min(1.0, 2 / self.size)
        self.sites: list[Address] = [number_of(text) for text in of.addresses or SITES]
        if not of.addresses:
            self.sites += [(4, dice.getrandbits(32)) for _ in range(6)]
            self.sites += [(6, 0x20010DB8 << 96 | dice.getrandbits(80)) for _ in range(3)]
        self.ports = [*of.ports] or [dice.randrange(65536) for _ in range(6)] + [0, 65535, 443, 53, 8000]
        self.serial = 0
        self.astray = 0.0  # how often a connection misses what a word of a rule means
        self.defaults = [
            one for one in ("accept", "block", "drop", "ask") if one in {*of.in_tables, *of.asking}
        ]
        ways = [way for way in ("out", "in", "forward") if dice.random() < 0.7]
        self.words: Words = {
            "default": {way: dice.choice(self.defaults) for way in ways},
            "group": {"on": {}, "off": {"enabled": False}},
            "list": {name: {"path": name} for name in LISTS if "list" in of.words},
            "network": {name: {"interface": name} for name in ("home", "work")},
            "rule": [self.rule() for _ in range(self.size)],
        }

    # --- rules

    def rule(self) -> Words:
        dice, loose = self.dice, self.dice.random() < self.loose
        names = dice.sample(KERNEL, dice.choice([0 if self.size < 20 else 2, 1, 1, 2, 2, 3, 4]))
        if dice.random() >= self.breadth:  # a narrow one: what stands behind it is reached too
            names = [dice.choice(["program", "user"]), dice.choice(["remote", "port", "local"]), *names]
        rule: Words = {"name": f"r{self.serial}"}
        self.serial += 1
        rule |= {name: self.some(name, loose=loose) for name in names}
        if loose:
            names = dice.sample([*self.of.words], min(len(self.of.words), dice.randrange(3)))
            rule |= {name: self.some(name, loose=True) for name in names}
            if dice.random() < 0.3:
                rule["also"] = [self.table(dice.randrange(3)) for _ in range(dice.randrange(3))]
            if dice.random() < 0.1:
                rule["until"] = dice.choice([END, "restart"])
        if dice.random() < 0.2:
            names = dice.sample([*KERNEL, *self.of.words] if loose else KERNEL, dice.choice([1, 1, 2]))
            rule["not"] = {name: self.some(name, loose=loose) for name in names}
        if dice.random() < 0.04:
            rule["enabled"] = dice.random() < 0.2
        if dice.random() < 0.08:
            rule["group"] = dice.choice(["on", "off", "nowhere"])
        return rule | self.verdict()

    def verdict(self) -> Words:
        dice = self.dice
        if dice.random() < max(self.loose, 0.1):
            return {"verdict": dice.choice(self.of.asking)}
        verdict = dice.choice(self.of.in_tables)
        return {"verdict": verdict} | ({"limit": "1 MB/s"} if verdict == "limit" else {})

    def table(self, conditions: int) -> Words:
        """One under ``also``."""
        names = self.dice.sample([*KERNEL, *self.of.words], conditions)
        table = {name: self.some(name, loose=True) for name in names}
        if self.dice.random() < 0.4:
            name = self.dice.choice([*KERNEL, *self.of.words])
            table["not"] = {name: self.some(name, loose=True)}
        return table

    def some(self, name: str, *, loose: bool) -> Any:
        count = self.dice.choice([1, 1, 1, 1, 2, 3, 8])
        words = [self.word(name, loose=loose) for _ in range(count)]
        return words[0] if count == 1 and self.dice.random() < 0.5 else words

    def word(self, name: str, *, loose: bool) -> Any:
        dice = self.dice
        if loose and name in LOOSE and dice.random() < 0.4:
            return dice.choice(LOOSE[name])
        match name:
            case "program":
                return dice.choice(self.of.programs)
            case "user":
                return dice.choice(self.of.users)
            case "direction":
                return dice.choice(["out", "in", "forward"])
            case "port":
                return self.port_word()
            case "remote" | "local":
                return self.network_word()
        return dice.choice(self.of.words[name])

    def port_word(self) -> Any:
        dice, low = self.dice, self.dice.choice(self.ports)
        if dice.random() < self.breadth / 2:
            return dice.choice(["tcp", "udp", "icmp", "sctp", "igmp", "icmpv6"])
        if dice.random() < 0.2:
            text = dice.choice(list(SERVICES))
        else:
            high = min(
                65535, low + dice.choice([0, 0, 1, 7, 100, 65535 if dice.random() < self.breadth else 1000])
            )
            text = str(low) if low == high else f"{low}-{high}"
        protocol = dice.choice(["", "", "/tcp", "/udp", "/sctp"])
        return int(text) if text.isdigit() and not protocol and dice.random() < 0.5 else text + protocol

    def network_word(self) -> str:
        dice = self.dice
        if dice.random() < 0.3 * self.breadth + 0.02:
            return dice.choice([*SCOPES, "internet"])
        version, number = dice.choice(self.sites)
        width = 32 if version == 4 else 128
        short = dice.random() < self.breadth
        length = dice.choice([0, 1, 4, 8, 12] if short else [16, 20, 24, 24, 28, 30, 31, width])
        if version == 6 and not short:
            length = dice.choice([32, 48, 64, 64, 127, 128])
        number ^= dice.getrandbits(2) << width - max(1, length)  # neighbours
        number &= (1 << width) - 1
        address = IPv4Address(number) if version == 4 else IPv6Address(number)
        if length == width and dice.random() < 0.5:
            return plain(address)
        network = ip_network((address, length), strict=False)
        mapped = isinstance(network, IPv6Network) and network[-1].ipv4_mapped
        return plain(address) if mapped else str(network)

    # --- connections

    def connection(self) -> Words:
        """Often one that a rule matches, or misses by one."""
        dice = self.dice
        one: Words = {
            "program": dice.choice(PROGRAMS),
            "user": dice.choice([*USERS, *USERS, 4000000000, ""]),
            "direction": dice.choice(["out", "out", "out", "in", "forward"]),
            "protocol": dice.choice([6, 6, 6, 17, 17, 132, 1, 47]),
            "remote": self.address(),
            "local": self.address(),
            "remote_port": dice.choice(self.ports),
            "local_port": dice.choice(self.ports),
        }
        for key, values in VALUES.items():
            if dice.random() < 0.15 + 0.3 * self.loose:
                one[key] = dice.choice(values)
        rules = self.words["rule"]
        if rules and dice.random() < 0.95:
            rule = dice.choice(rules)
            self.astray = dice.choice([0, 0, 0.3])
            tables = [rule, *rule.get("also", [])]
            refused = [table.get("not", {}) for table in tables if dice.random() < self.astray]
            wanted = [
                item
                for table in [*refused, *tables]
                for item in table.items()
                if item[0] not in NO_DIMENSION and item != ("until", "restart")
            ]
            # the direction says which port is meant, and the remote end which IP version
            wanted.sort(key=lambda item: ["direction", "remote", item[0]].index(item[0]))
            if "remote" not in dict(wanted) and "local" in dict(wanted):
                one["remote"] = self.address_near(self.one_of(dict(wanted)["local"]), 0)
            for name, value in wanted:
                self.approach(one, name, self.one_of(value))
        return self.finished(one)

    def one_of(self, value: Any) -> Any:
        return self.dice.choice(value if isinstance(value, list) else [value])

    def misses(self) -> bool:
        return self.dice.random() < self.astray

    def approach(self, one: Words, name: str, word: Any) -> None:
        """Makes a connection one that a word matches, or nearly so."""
        dice, key = self.dice, KEY_OF.get(name, name)
        if name in {"remote", "local"}:
            one[name] = self.address_near(word, one["remote"][0] if name == "local" else 0)
        elif name in {"port", "remote_port", "local_port"}:
            protocol, port = self.port_near(str(word))
            one["protocol"] = protocol or one["protocol"]
            one[("local_port" if one["direction"] == "in" else "remote_port") if name == "port" else name] = (
                port
            )
        elif name == "protocol":
            text = str(word).lower()
            one[name] = int(text) if text.isdigit() else PROTOCOLS[text.rstrip("46")]
        elif name == "direction":
            one[name] = "out" if self.misses() else word
        elif name == "program" and word in self.of.programs:
            one[name] = f"{word}x" if self.misses() else word
        elif name == "user" and isinstance(word, int):
            one[name] = word + self.misses()
        elif name == "list":
            one["name"] = dice.choice(VALUES["name"])
            networks = [line for line in LISTS[word] if line[0].isdigit()]
            one["remote"] = self.address_near(dice.choice(networks), 0)
        elif key in VALUES or name in LOOSE:
            values = PROGRAMS if name == "program" else USERS if name == "user" else VALUES[key]
            test = asks(name, word) if word != "" else None
            fitting = [value for value in values if fits(name, test, value)]
            one[key] = dice.choice(values if not fitting or self.misses() else fitting)

    def address(self) -> Address:
        return self.dice.choice(self.sites)

    def address_near(self, word: str, version: int) -> Address:
        """In what a word means, at one of its ends, or beside it; of an IP version if that can be."""
        dice, words = self.dice, SCOPES.get(word, [word])
        if word.startswith("re:"):
            texts = ["203.0.113.9", "20.3.0.1", "10.0.0.1", "2001:db8:bad::1"]
            fitting = [text for text in texts if re.search(word[3:], text)]
            return number_of(dice.choice(texts if not fitting or self.misses() else fitting))
        if word == "internet":
            words = dice.choice(list(SCOPES.values())) if self.misses() else ["8.8.0.0/16", "2600::/12"]
        same = [one for one in words if version == (6 if ":" in one else 4)]
        network = ip_network(dice.choice(same or words))
        first, last = int(network.network_address), int(network.broadcast_address)
        inside = first + dice.getrandbits(128) % (last - first + 1)
        number = dice.choice([first - 1, last + 1] if self.misses() else [first, last, inside, inside])
        return network.version, number % (1 << network.max_prefixlen)

    def port_near(self, word: str) -> tuple[int, int]:
        """The protocol (0: any) and the port."""
        dice = self.dice
        if word in PROTOCOLS:
            return PROTOCOLS[word], dice.choice(self.ports)
        ports, _, name = word.partition("/")
        low, _, high = str(SERVICES.get(ports, ports)).partition("-")
        first, last = int(low), int(high or low)
        inside = dice.randint(first, last)
        beside = [max(0, first - 1), min(65535, last + 1)]
        port = dice.choice(beside if self.misses() else [first, last, inside, inside])
        return 0 if self.misses() else PROTOCOLS.get(name, dice.choice([6, 17])), port

    def finished(self, one: Words) -> Words:
        """A connection as JSON has it: both ends of one IP version, ports where there are any."""
        version = one["remote"][0]
        if one["local"][0] != version:
            one["local"] = self.dice.choice([site for site in self.sites if site[0] == version])
        for side in ("remote", "local"):
            address = plain(IPv4Address(one[side][1]) if version == 4 else IPv6Address(one[side][1]))
            port = one.pop(f"{side}_port")
            port = port if one["protocol"] in WITH_PORTS else 0
            one[side] = f"{address}:{port}" if version == 4 else f"[{address}]:{port}"
        if not one.get("name"):
            one.pop("aliases", None)
        return one

    # --- changes

    def edit(self) -> None:
        """One change as people make them; the policy before it is not touched."""
        dice, rules = self.dice, list(self.words["rule"])
        at = dice.randrange(len(rules) + 1)
        match dice.choice(["add", "remove", "move", "replace", "switch", "group", "default"]):
            case "add":
                rules.insert(at, self.rule())
            case "remove":
                del rules[at : at + 1]
            case "move" if rules:
                rules.insert(at, rules.pop(dice.randrange(len(rules))))
            case "replace" if at < len(rules):
                rules[at] = self.rule()
            case "switch" if at < len(rules):
                rules[at] = rules[at] | {"enabled": not rules[at].get("enabled", True)}
            case "group":
                name = dice.choice(["on", "off"])
                groups = self.words["group"]
                self.words = self.words | {"group": groups | {name: {"enabled": dice.random() < 0.5}}}
            case "default":
                verdict = dice.choice(self.defaults)
                self.words = self.words | {"default": self.words["default"] | {"out": verdict}}
        self.words = self.words | {"rule": rules}


def fits(name: str, test: Callable[[Any], bool] | None, value: Any) -> bool:
    """Whether a value of a connection may be what a word means; roughly, for dimensions of several facts."""
    unknown = value in ("", [], {}) or (value == 0 and name in {"pid", "asn"})
    if test is None or unknown:
        return test is None and unknown
    match name:
        case "arguments":
            return test(" ".join(value))
        case "environment":
            return any(test(f"{key}={text}") for key, text in value.items())
        case "time":
            now = time.localtime(value)
            return test(now.tm_hour * 60 + now.tm_min)
        case "weekday":
            return test(time.localtime(value).tm_wday)
        case "host" | "asked_host":
            return test(value.lower())
    return any(map(test, value)) if isinstance(value, list) else test(value)


def number_of(text: str) -> Address:
    address = ip_address(text)
    return address.version, int(address)


def plain(address: IPv4Address | IPv6Address) -> str:
    """An address, but none of IPv4 that is written as IPv6."""
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
    return "2001:db8::1" if mapped else str(address)


def smallest(policy: Words, fails: Callable[[Words], bool]) -> Words:
    """The same policy with few rules that still fail: chunks are left out, then smaller ones, then single rules."""
    rules = list(policy["rule"])
    size, left = max(1, len(rules) // 2), TRIES
    while True:
        at = 0
        while at < len(rules) and left:
            fewer, left = rules[:at] + rules[at + size :], left - 1
            if fails(policy | {"rule": fewer}):
                rules = fewer
            else:
                at += size
        if size == 1 or not left:
            return policy | {"rule": rules}
        size //= 2
