"""host/policy_maps.py: what is written is what the kernel decides by, and nothing else is touched."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerneltwin import NO_RULE, Judged, KernelTwin, twin_of
from livelab import loaded
from policy.conftest import cases
from strategies import FUZZ
from tidewaiter.host.policy_maps import CAPACITY, SLICE, PolicyMaps, decide_anew, set_config
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.maps import Map
from tidewaiter.model.key import Direction, Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Facts, Policy, PortSpan, Rule, compile_tables
from tidewaiter.policy.tables import NOT_RULES

pytestmark = pytest.mark.live

MAPS = ("policy_values", "policy_ranges", "policy_blocks")
SAMPLE = Policy(
    (
        Rule(name="a", answer=Answer.BLOCK, programs=("/usr/bin/a",), remote=(ip_network("10.0.0.0/8"),)),
        Rule(name="b", answer=Answer.ASK, users=(7,), ports=(PortSpan(80, 81, Protocol.TCP),)),
        Rule(name="c", answer=Answer.DROP, directions=frozenset({Direction.IN})),
        Rule(name="d", answer=Answer.ACCEPT, local=(ip_network("fd00::/8"),)),
    ),
    {Direction.OUT: Answer.ASK},
)


@pytest.fixture
def fresh() -> Iterator[Kernel]:
    with loaded() as kernel:
        yield kernel


@pytest.fixture
def maps(fresh: Kernel) -> PolicyMaps:
    return PolicyMaps(fresh)


@pytest.fixture(scope="module")
def kept(kernel: Kernel) -> PolicyMaps:
    """Maps in which one policy gives way to the next: each is written as what is different."""
    return PolicyMaps(kernel)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twin")


@pytest.fixture
def twin(fresh: Kernel, compiled: Path) -> Iterator[KernelTwin]:
    with twin_of(fresh, compiled) as twin:
        yield twin


@pytest.fixture(scope="module")
def kept_twin(kernel: Kernel, compiled: Path) -> Iterator[KernelTwin]:
    with twin_of(kernel, compiled) as twin:
        yield twin


def config(kernel: Kernel) -> dict[str, int]:
    found = kernel.map("config").read(value=0)
    assert found is not None
    return found


def assert_in_force(twin: KernelTwin, maps: PolicyMaps, *those: Facts) -> None:
    """The kernel decides as tables do that are made anew in Python, at connect() and later."""
    made, bits = compile_tables(maps.policy, CAPACITY), maps.tables
    assert bits is not None
    for facts in those:
        for local_known, bit in ((False, made.lookup_at_connect(facts)), (True, made.lookup(facts))):
            found = twin.decide(facts, local_known=local_known)
            if bit is None:
                assert found == Judged(NO_RULE, Verdict.UNDECIDED)
                continue
            action = made.actions[bit]
            expected = Verdict.UNDECIDED if action.consult else Verdict[f"PERMANENT_{action.answer.name}"]
            assert (bits.index(found.bit), found.verdict) == (made.index(bit), expected)


def entries(kernel: Kernel, generation: int) -> Counter[str]:
    """How many entries each map has for a generation."""
    return Counter(
        name
        for name in MAPS
        for key in kernel.map(name).keys()  # noqa: SIM118
        if key[4 if name == "policy_ranges" else 0] & 1 == generation
    )


def contents(kernel: Kernel, generation: int) -> dict[bytes, bytes]:
    """What a generation says of every value, whatever numbers its sets have."""
    blocks = dict(kernel.map("policy_blocks").items())
    found = {}
    for name in MAPS[:2]:
        for key in kernel.map(name).keys():  # noqa: SIM118
            if key[4 if name == "policy_ranges" else 0] & 1 == generation:
                value = kernel.map(name).get(key)
                assert value is not None
                many = int.from_bytes(value[:8], "little").bit_count() > 1
                others = [
                    block for place, block in sorted(blocks.items()) if many and place[:4] == value[8:12]
                ]
                found[key] = b"".join([value[:8], value[16:], *others])
    return found


def test_a_policy_is_written_beside_the_one_in_force(fresh: Kernel, maps: PolicyMaps) -> None:
    before = config(fresh)
    assert maps.put(SAMPLE) == before["epoch"] + 1
    assert (entries(fresh, 0).total(), entries(fresh, 1).total()) == (0, 2 + 3)
    assert maps.put(SAMPLE) == before["epoch"] + 2
    assert entries(fresh, 0) == entries(fresh, 1)
    after = config(fresh)
    assert after["epoch"] == before["epoch"] + 2
    assert after["programs_version"] == before["programs_version"] + 1  # the second time no program was new


def test_nothing_of_an_older_policy_is_left(fresh: Kernel, maps: PolicyMaps) -> None:
    for _ in range(2):
        maps.put(SAMPLE)
    for _ in range(2):
        epoch = maps.put(Policy())
    for generation in (0, 1):
        assert entries(fresh, generation).total() == 0
        found = fresh.map("policy").read(value=generation)
        assert found is not None
        assert found["dimensions"] == 0
        rules = fresh.map("policy_rules")
        assert rules.read(value=generation * CAPACITY) == {"verdict": 3, "unused": bytes(3)}
        assert rules.read(value=generation * CAPACITY + 3) == {"verdict": 0, "unused": bytes(3)}
    assert epoch == config(fresh)["epoch"] == 4


def test_rules_have_the_verdicts_of_their_answers(fresh: Kernel, maps: PolicyMaps) -> None:
    epoch = maps.put(SAMPLE)
    assert maps.tables is not None
    bits = [*maps.tables.bits, *range(maps.tables.end, maps.tables.end + 4)]
    rules = fresh.map("policy_rules")
    found = [rules.read(value=(epoch & 1) * CAPACITY + bit) for bit in bits]
    # the four rules, the defaults out, in and forward, and one that does not exist
    assert [item["verdict"] for item in found if item] == [
        Verdict.PERMANENT_BLOCK,
        Verdict.UNDECIDED,
        Verdict.PERMANENT_DROP,
        Verdict.PERMANENT_ACCEPT,
        Verdict.UNDECIDED,
        Verdict.PERMANENT_ACCEPT,
        Verdict.PERMANENT_ACCEPT,
        Verdict.UNDECIDED,
    ]


def test_rules_are_named_by_their_bits(maps: PolicyMaps) -> None:
    assert maps.names() == ()
    maps.put(SAMPLE)
    assert maps.tables is not None
    names = maps.names()
    assert [names[bit] for bit in maps.tables.bits] == ["a", "b", "c", "d"]
    assert names[maps.tables.end :] == ("default", "default", "default", "time-out", "shutdown")


def test_a_program_keeps_its_number_over_policies(fresh: Kernel, maps: PolicyMaps) -> None:
    def number(path: str) -> int | None:
        found = fresh.map("programs").get(path.encode().rjust(512, b"\0"))
        return int.from_bytes(found, "little") if found else None

    def policy(*paths: str) -> Policy:
        return Policy((Rule(name="x", answer=Answer.BLOCK, programs=paths),))

    maps.put(policy("/no/a", "/no/b"))
    first = {path: number(path) for path in ("/no/a", "/no/b")}
    assert sorted(first.values()) == [1, 2]  # type: ignore[type-var]
    maps.put(policy("/no/c", "/no/b"))
    assert {path: number(path) for path in ("/no/a", "/no/b", "/no/c")} == first | {"/no/c": 3}
    PolicyMaps(fresh).put(policy("/no/d", "/no/c"))  # one that comes later
    assert (number("/no/c"), number("/no/d")) == (3, 4)


def test_the_longest_path_and_one_that_is_longer(fresh: Kernel, maps: PolicyMaps) -> None:
    longest, longer = "/" + "x" * 511, "/" + "y" * 512
    odd = "/caf\u00e9/\udcff"  # a name that is not UTF-8, as Python gives it
    maps.put(
        Policy(
            tuple(Rule(name="x", answer=Answer.BLOCK, programs=(path,)) for path in (longest, longer, odd))
        )
    )
    paths = {key.lstrip(b"\0") for key in fresh.map("programs").keys()}  # noqa: SIM118
    assert paths == {longest.encode(), os.fsencode(odd)}


def test_when_writing_fails_the_old_policy_stays(
    fresh: Kernel, maps: PolicyMaps, twin: KernelTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with what is written in part; and the next one is whole again."""
    other = Policy(tuple(replace(rule, answer=Answer.DROP) for rule in SAMPLE.rules[:2]))
    facts = Facts("/usr/bin/a", 7, Direction.OUT, 6, IPv4Address(1), 1, ip_address("10.0.0.1"), 80)
    put = Map.put_all

    def full(self: Map, entries: Mapping[bytes, bytes]) -> None:
        if self.name == "policy_ranges":
            put(self, dict(list(entries.items())[:1]))
            raise KernelError(7, "writing map policy_ranges: Argument list too long")
        put(self, entries)

    for times in range(3):  # neither, one and both generations are known
        before, in_force = config(fresh), maps.policy
        with monkeypatch.context() as patched, pytest.raises(KernelError, match="writing map policy_ranges"):
            patched.setattr(Map, "put_all", full)
            maps.put(other)
        assert config(fresh)["epoch"] == before["epoch"]
        assert maps.policy is in_force
        if times:
            assert twin.decide(facts, local_known=True).verdict is Verdict.PERMANENT_BLOCK
        assert maps.put(SAMPLE) == before["epoch"] + 1
        assert_in_force(twin, maps, facts)
    maps.put(SAMPLE)
    assert contents(fresh, 0).keys() == {flip(key) for key in contents(fresh, 1)}


def flip(key: bytes) -> bytes:
    """The key of the same value in the other generation: that of networks and ports begins with a length."""
    at = 4 if len(key) > 8 else 0
    return key[:at] + bytes([key[at] ^ 1]) + key[at + 1 :]


def test_the_epoch_goes_round(fresh: Kernel) -> None:
    set_config(fresh, epoch=0xFFFFFFFF)
    assert PolicyMaps(fresh).put(Policy()) == 0
    assert config(fresh)["epoch"] == 0


def test_the_same_policy_is_put_in_force_once_more(fresh: Kernel, maps: PolicyMaps, twin: KernelTwin) -> None:
    facts = Facts("/usr/bin/a", 1, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80)
    for _ in range(2):
        epoch = maps.put(SAMPLE)
        decide_anew(fresh)
        assert config(fresh)["epoch"] == epoch + 2
        assert_in_force(twin, maps, facts)
    set_config(fresh, epoch=0xFFFFFFFF)
    decide_anew(fresh)
    assert config(fresh)["epoch"] == 1


def test_rules_are_switched_off_under_the_same_epoch(
    fresh: Kernel, maps: PolicyMaps, twin: KernelTwin
) -> None:
    epoch = maps.put(SAMPLE)
    facts = [
        Facts("/usr/bin/a", 7, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
        Facts("/usr/bin/b", 7, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
        Facts("", -1, Direction.IN, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
    ]

    def found() -> list[tuple[str, Verdict]]:
        judged = [twin.decide(one, local_known=True) for one in facts]
        return [(maps.names()[one.bit], one.verdict) for one in judged]

    names = [rule.name for rule in SAMPLE.rules]
    block, ask, drop = zip(
        names, [Verdict.PERMANENT_BLOCK, Verdict.UNDECIDED, Verdict.PERMANENT_DROP], strict=False
    )
    assert found() == [block, ask, drop]
    maps.switch_off([0])
    assert found() == [ask, ask, drop]
    maps.switch_off([])
    maps.switch_off([2, 1, CAPACITY + 5])  # one that the kernel never had
    default = [("default", Verdict.UNDECIDED)] * 2 + [("default", Verdict.PERMANENT_ACCEPT)]
    assert found() == default
    assert config(fresh)["epoch"] == epoch


def test_settings_are_changed_one_by_one(fresh: Kernel) -> None:
    set_config(fresh, fail_open=True, events=1)
    set_config(fresh, enforce=1)
    found = config(fresh)
    assert (found["fail_open"], found["events"], found["enforce"], found["epoch"]) == (1, 1, 1, 0)
    with pytest.raises(KeyError, match="tw_config has no field fial_open"):
        set_config(fresh, fial_open=0)


def test_more_rules_than_fit_consult_behind_the_last(maps: PolicyMaps, twin: KernelTwin) -> None:
    rules = tuple(Rule(name=f"{n}", answer=Answer.BLOCK, users=(n,)) for n in range(CAPACITY + 10))
    maps.put(Policy(rules))
    last = CAPACITY - NOT_RULES
    for uid, expected in (
        (0, (0, 5)),
        (300, (300, 5)),
        (last - 1, (last - 1, 5)),
        (last, (last, 0)),
        (CAPACITY + 9, (last, 0)),
    ):
        facts = Facts("", uid, Direction.OUT, 6, IPv4Address(1), 1, IPv4Address(2), 1)
        assert twin.decide(facts, local_known=True) == expected
    names = maps.names()
    assert (names[last - 1], names[last], names[last + 1], names[-3:]) == (
        f"{last - 1}",
        "",
        f"{last}",
        ("default", "time-out", "shutdown"),
    )
    maps.put(Policy(rules[:5]))
    assert twin.decide(facts, local_known=True).verdict is Verdict.PERMANENT_ACCEPT


def many(count: int) -> list[Rule]:
    """Values that many rules name, with gaps between them."""
    return [
        Rule(
            name=f"{n}",
            answer=Answer.BLOCK,
            users=(n % 7, n),
            remote=(ip_network(f"10.{n // 256}.{n % 256}.0/24"),),
        )
        for n in range(count)
    ]


def test_a_set_in_many_blocks(fresh: Kernel, maps: PolicyMaps, twin: KernelTwin) -> None:
    """They are written and cleared away again."""
    for _ in range(2):
        maps.put(Policy(tuple(many(3000))))
        those = [
            (uid, IPv4Address((10 << 24) + (address << 8) + 1))
            for uid, address in ((6, 2990), (3, 2999), (2500, 2500), (2999, 2999), (5, 6))
        ]
        facts = [Facts("", uid, Direction.OUT, 6, IPv4Address(1), 1, remote, 1) for uid, remote in those]
        assert_in_force(twin, maps, *facts)
    assert len(list(fresh.map("policy_blocks").keys())) > 2 * 7 * 10
    for _ in range(2):
        maps.put(Policy())
    assert list(fresh.map("policy_blocks").keys()) == []


def test_a_change_of_one_rule_writes_what_it_names(
    fresh: Kernel, maps: PolicyMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = many(3000)
    written: Counter[str] = Counter()
    put, delete = Map.put_all, Map.delete_all

    def put_all(self: Map, entries: Mapping[bytes, bytes]) -> None:
        written[self.name] += len(entries)
        put(self, entries)

    def delete_all(self: Map, keys: Sequence[bytes]) -> None:
        written[self.name] += len(keys)
        delete(self, keys)

    monkeypatch.setattr(Map, "put_all", put_all)
    monkeypatch.setattr(Map, "delete_all", delete_all)
    maps.put(Policy(tuple(rules)))
    maps.put(Policy(tuple(rules)))
    assert written["policy_ranges"] >= 6000
    for at in (0, 1500, 2999):
        written.clear()
        rules[at] = replace(rules[at], users=(60000,))
        maps.put(Policy(tuple(rules)))
        rules.insert(at, Rule(name=f"new {at}", answer=Answer.DROP, users=(50000 + at,)))
        maps.put(Policy(tuple(rules)))
        assert written["policy_values"] + written["policy_ranges"] < 40
        assert written["policy_rules"] < 40
        assert written["policy_blocks"] < 3 * 2 * 2 * 20  # of the few users that many rules name
    maps.put(Policy(tuple(rules)))
    assert {flip(key): value for key, value in contents(fresh, 0).items()} == contents(fresh, 1)


def test_what_a_change_leaves_behind_is_written_before_the_next_one(
    fresh: Kernel, maps: PolicyMaps, twin: KernelTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = many(3000)
    maps.put(Policy(tuple(rules)))
    in_force, other = config(fresh)["epoch"] & 1, config(fresh)["epoch"] + 1 & 1
    said = contents(fresh, in_force)
    steps = 0
    while maps.catch_up():
        steps += 1
    assert steps > 6000 // SLICE
    assert config(fresh)["epoch"] & 1 == in_force
    assert contents(fresh, in_force) == said
    assert {flip(key): value for key, value in said.items()} == contents(fresh, other)
    rules[1500] = replace(rules[1500], users=(60000,))
    written: list[int] = []
    put = Map.put_all

    def put_all(self: Map, entries: Mapping[bytes, bytes]) -> None:
        written.append(len(entries))
        put(self, entries)

    monkeypatch.setattr(Map, "put_all", put_all)
    maps.put(Policy(tuple(rules)))
    assert sum(written) < 40
    facts = Facts("", 60000, Direction.OUT, 6, IPv4Address(1), 1, IPv4Address(2), 3)
    assert_in_force(twin, maps, facts)


def test_where_catching_up_fails_the_next_policy_writes_all(
    fresh: Kernel, maps: PolicyMaps, twin: KernelTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Map, entries: Mapping[bytes, bytes]) -> None:
        raise KernelError(12, "no room")

    maps.put(Policy(tuple(many(300))))
    assert maps.catch_up()
    with monkeypatch.context() as broken:
        broken.setattr(Map, "put_all", refuse)
        assert not maps.catch_up()
    maps.put(Policy(tuple(many(200))))
    facts = Facts("", 0, Direction.OUT, 6, IPv4Address(1), 1, IPv4Address(2), 3)
    assert_in_force(twin, maps, facts)
    assert len(contents(fresh, config(fresh)["epoch"] & 1)) < len(
        contents(fresh, config(fresh)["epoch"] + 1 & 1)
    )


@pytest.mark.parametrize("networks", [("0.0.0.0/0",), ("::/0",), ("0.0.0.0/0", "::/0"), ("10.0.0.0/8",)])
@pytest.mark.parametrize("dimension", ["remote", "local"])
@pytest.mark.parametrize("negated", [False, True])
def test_a_network_of_every_address_is_of_one_family(
    kept: PolicyMaps, kept_twin: KernelTwin, dimension: str, networks: tuple[str, ...], negated: bool
) -> None:
    values = {dimension: tuple(map(ip_network, networks))}
    wanted = {} if negated else values
    rule = Rule(name="x", answer=Answer.BLOCK, none_of=values if negated else {}, **wanted)  # type: ignore[arg-type]
    kept.put(Policy((rule,)))
    for one, other in (("10.0.0.1", "10.0.0.2"), ("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")):
        facts = Facts("", 0, Direction.OUT, 6, ip_address(one), 1, ip_address(other), 2)
        assert_in_force(kept_twin, kept, facts)


@given(cases())
@settings(max_examples=150 * FUZZ)
def test_kernel_and_tables_agree_about_any_connection(
    kept: PolicyMaps, kept_twin: KernelTwin, case: tuple[Policy, list[Facts]]
) -> None:
    """Each policy comes after another one, of which nothing may be left."""
    policy, connections = case
    kept.put(policy)
    assert_in_force(kept_twin, kept, *connections)


@given(st.integers(0, 1 << 32), st.integers(2, 5))
@settings(max_examples=6 * FUZZ)
def test_many_rules_that_change_a_little(
    kept: PolicyMaps, kept_twin: KernelTwin, seed: int, steps: int
) -> None:
    dice = random.Random(seed)
    rules = [
        Rule(
            name=f"{n}",
            answer=dice.choice([Answer.BLOCK, Answer.ACCEPT, Answer.DROP, Answer.ASK]),
            users=tuple({dice.randrange(40) for _ in range(dice.randrange(3))}),
            remote=(
                ip_network((10 << 24 | dice.randrange(64) << 16, dice.choice([8, 12, 16])), strict=False),
            ),
            ports=(PortSpan(0, dice.randrange(100)),) if dice.random() < 0.5 else (),
            none_of={"user": (dice.randrange(40),)} if dice.random() < 0.5 else {},
        )
        for n in range(600)
    ]
    for step in range(steps):
        kept.put(Policy(tuple(rules)))
        remotes = [IPv4Address(10 << 24 | dice.randrange(64) << 16 | 1) for _ in range(40)]
        those = [
            Facts("", dice.randrange(42), Direction.OUT, 6, IPv4Address(1), 1, remote, dice.randrange(110))
            for remote in remotes
        ]
        assert_in_force(kept_twin, kept, *those)
        for _ in range(dice.randrange(6)):
            kept.catch_up()
        assert_in_force(kept_twin, kept, *those)
        at = dice.randrange(len(rules))
        match dice.randrange(4):
            case 0:
                del rules[at]
            case 1:
                rules.insert(at, replace(rules[at], name=f"new {step}", users=(dice.randrange(40),)))
            case 2:
                rules[at] = replace(rules[at], answer=Answer.DROP, none_of={})
            case 3:
                rules.insert(dice.randrange(len(rules)), rules.pop(at))
