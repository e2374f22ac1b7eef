"""host/policy_maps.py: what is written is read back as it was meant, and nothing else is touched."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given, settings

from livelab import loaded
from policy.conftest import cases
from strategies import FUZZ
from tidewaiter.host.policy_maps import (
    CAPACITY,
    LOCAL,
    PORT,
    PROGRAM,
    REMOTE,
    USER,
    set_config,
    write_policy,
)
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.maps import Map
from tidewaiter.model.key import Address, Direction, Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Facts, KernelTables, Policy, PortSpan, Rule, compile_tables

pytestmark = pytest.mark.live

NOBODY = 0xFFFFFFFF
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


def config(kernel: Kernel) -> dict[str, int]:
    found = kernel.map("config").read(value=0)
    assert found is not None
    return found


def bits(words: bytes) -> int:
    return int.from_bytes(words, "little")


class Reader:
    """Evaluates the maps as kernel/policy.h does, one look a dimension, in the generation of an epoch."""

    def __init__(self, kernel: Kernel, epoch: int) -> None:
        self._kernel, self._generation = kernel, epoch & 1
        found = kernel.map("policy").read(value=self._generation)
        assert found is not None
        self._policy = found

    def decide(self, facts: Facts, *, local_known: bool) -> tuple[int, Verdict] | None:
        """The bit and its verdict; None for asking because the local address is not known yet."""
        dimensions = self._policy["dimensions"]
        found = self._words(self._policy[f"kinds{facts.direction}_word"])
        number = self._number(facts.program)
        found &= self._value(PROGRAM, number if dimensions & PROGRAM else 0)
        if dimensions & USER:
            found &= self._value(USER, facts.uid & NOBODY)
        if dimensions & REMOTE:
            found &= self._address(REMOTE, facts.remote)
        if dimensions & PORT:
            found &= self._range(PORT, struct.pack(">BH", facts.protocol, facts.port), 24)
        if dimensions & LOCAL and local_known:
            found &= self._address(LOCAL, facts.local)
        first = (found & -found).bit_length() - 1
        if not local_known and self._words(self._policy["local_word"]) >> first & 1:
            return None
        rule = self._kernel.map("policy_rules").read(value=self._generation * CAPACITY + first)
        assert rule is not None
        return first, Verdict(rule["verdict"])

    @staticmethod
    def _words(words: tuple[int, ...]) -> int:
        return sum(word << 64 * place for place, word in enumerate(words))

    def _number(self, program: str) -> int:
        found = self._kernel.map("programs").get(program.encode().rjust(512, b"\0"))
        return bits(found) if found else 0

    def _value(self, dimension: int, value: int) -> int:
        """The rules for a value; the program number 0, and what no rule names, have a set of their own."""
        found = self._kernel.map("policy_values").get(
            struct.pack("<BBxxI", self._generation, dimension, value)
        )
        if found is not None:
            return bits(found)
        return self._words(self._policy["program_word" if dimension == PROGRAM else "user_word"])

    def _address(self, dimension: int, address: Address) -> int:
        family = 0 if address.version == 4 else 64
        return self._range(dimension | family, address.packed, address.max_prefixlen)

    def _range(self, dimension: int, data: bytes, length: int) -> int:
        key = struct.pack("<IBB16s2x", 16 + length, self._generation, dimension, data.ljust(16, b"\0"))
        found = self._kernel.map("policy_ranges").get(key)  # the kernel finds the longest prefix
        assert found is not None
        return bits(found)


def assert_in_force(kernel: Kernel, tables: KernelTables, epoch: int, facts: Facts) -> None:
    """The maps and the tables in Python give the same answer."""
    reader = Reader(kernel, epoch)
    at_connect, later = tables.lookup_at_connect(facts), tables.lookup(facts)
    decided = reader.decide(facts, local_known=False)
    assert (None if decided is None else decided[0]) == at_connect
    last = reader.decide(facts, local_known=True)
    assert last is not None
    assert last[0] == later
    action = tables.actions[later]
    expected = Verdict.UNDECIDED if action.consult else Verdict[f"PERMANENT_{action.answer.name}"]
    assert last[1] is expected


def test_a_policy_is_written_beside_the_one_in_force(fresh: Kernel) -> None:
    before = config(fresh)
    values, ranges = fresh.map("policy_values"), fresh.map("policy_ranges")
    tables = compile_tables(SAMPLE, CAPACITY)
    assert write_policy(fresh, tables) == before["epoch"] + 1
    first = [dict(item.items()) for item in (values, ranges)]
    assert {key[0] for key in first[0]} == {key[4] for key in first[1]} == {1}
    assert write_policy(fresh, tables) == before["epoch"] + 2
    second = [dict(item.items()) for item in (values, ranges)]
    for old, new in zip(first, second, strict=True):
        assert old.items() <= new.items()
        assert len(new) == 2 * len(old)
    after = config(fresh)
    assert after["epoch"] == before["epoch"] + 2
    assert after["programs_version"] == before["programs_version"] + 2


def test_nothing_of_an_older_policy_is_left(fresh: Kernel) -> None:
    for _ in range(2):
        write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    empty = compile_tables(Policy(), CAPACITY)
    for _ in range(2):
        epoch = write_policy(fresh, empty)
    assert list(fresh.map("policy_values").keys()) == []
    assert len(list(fresh.map("policy_ranges").keys())) == 2 * 5  # the empty prefix of each dimension
    for generation in (0, 1):
        found = fresh.map("policy").read(value=generation)
        assert found is not None
        assert found["dimensions"] == 0
        rules = fresh.map("policy_rules")
        assert rules.read(value=generation * CAPACITY) == {"verdict": 3, "unused": bytes(3)}
        assert rules.read(value=generation * CAPACITY + 3) == {"verdict": 0, "unused": bytes(3)}
    assert epoch == config(fresh)["epoch"] == 4


def test_rules_have_the_verdicts_of_their_answers(fresh: Kernel) -> None:
    epoch = write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    rules = fresh.map("policy_rules")
    found = [rules.read(value=(epoch & 1) * CAPACITY + bit) for bit in range(8)]
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
    found_policy = fresh.map("policy").read(value=epoch & 1)
    assert found_policy is not None
    assert found_policy["dimensions"] == PROGRAM | USER | REMOTE | LOCAL | PORT
    assert found_policy["local_word"] == (0b1000, 0, 0, 0)


def test_a_program_keeps_its_number_over_policies(fresh: Kernel) -> None:
    def number(path: str) -> int | None:
        found = fresh.map("programs").get(path.encode().rjust(512, b"\0"))
        return bits(found) if found else None

    def policy(*paths: str) -> KernelTables:
        return compile_tables(Policy((Rule(name="x", answer=Answer.BLOCK, programs=paths),)), CAPACITY)

    write_policy(fresh, policy("/a", "/b"))
    first = {path: number(path) for path in ("/a", "/b")}
    assert sorted(first.values()) == [1, 2]  # type: ignore[type-var]
    write_policy(fresh, policy("/c", "/b"))
    assert {path: number(path) for path in ("/a", "/b", "/c")} == first | {"/c": 3}


def test_the_longest_path_and_one_that_is_longer(fresh: Kernel) -> None:
    longest, longer = "/" + "x" * 511, "/" + "y" * 512
    odd = "/caf\u00e9/\udcff"  # a name that is not UTF-8, as Python gives it
    rules = tuple(Rule(name="x", answer=Answer.BLOCK, programs=(path,)) for path in (longest, longer, odd))
    write_policy(fresh, compile_tables(Policy(rules), CAPACITY))
    paths = {key.lstrip(b"\0") for key in fresh.map("programs").keys()}  # noqa: SIM118
    assert paths == {longest.encode(), os.fsencode(odd)}


def test_when_writing_fails_the_old_policy_stays(fresh: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    before = config(fresh)
    put = Map.put
    room = 5

    def full(self: Map, key: bytes, value: bytes) -> None:
        nonlocal room
        room -= self.name == "policy_ranges"
        if room < 0:
            raise KernelError(7, "writing map policy_ranges: Argument list too long")
        put(self, key, value)

    monkeypatch.setattr(Map, "put", full)
    with pytest.raises(KernelError, match="writing map policy_ranges"):
        write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    assert config(fresh) == before
    monkeypatch.undo()
    assert write_policy(fresh, compile_tables(SAMPLE, CAPACITY)) == before["epoch"] + 1


def test_the_epoch_goes_round(fresh: Kernel) -> None:
    set_config(fresh, epoch=0xFFFFFFFF)
    assert write_policy(fresh, compile_tables(Policy(), CAPACITY)) == 0
    assert config(fresh)["epoch"] == 0


def test_settings_are_changed_one_by_one(fresh: Kernel) -> None:
    set_config(fresh, fail_open=True, events=1)
    set_config(fresh, enforce=1)
    found = config(fresh)
    assert (found["fail_open"], found["events"], found["enforce"], found["epoch"]) == (1, 1, 1, 0)
    with pytest.raises(KeyError, match="tw_config has no field fial_open"):
        set_config(fresh, fial_open=0)


def test_more_rules_than_fit_consult_behind_the_last(fresh: Kernel) -> None:
    rules = tuple(Rule(name=f"{n}", answer=Answer.BLOCK, users=(n,)) for n in range(CAPACITY + 10))
    tables = compile_tables(Policy(rules), CAPACITY)
    epoch = write_policy(fresh, tables)
    reader = Reader(fresh, epoch)
    for uid, expected in ((0, (0, 5)), (251, (251, 5)), (252, (252, 0)), (CAPACITY + 9, (252, 0))):
        facts = Facts("", uid, Direction.OUT, 6, IPv4Address(1), 1, IPv4Address(2), 1)
        assert reader.decide(facts, local_known=True) == expected


@pytest.mark.parametrize("networks", [("0.0.0.0/0",), ("::/0",), ("0.0.0.0/0", "::/0"), ("10.0.0.0/8",)])
@pytest.mark.parametrize("dimension", ["remote", "local"])
def test_a_network_of_every_address_is_of_one_family(
    kernel: Kernel, dimension: str, networks: tuple[str, ...]
) -> None:
    rule = Rule(name="x", answer=Answer.BLOCK, **{dimension: tuple(map(ip_network, networks))})  # type: ignore[arg-type]
    tables = compile_tables(Policy((rule,)), CAPACITY)
    epoch = write_policy(kernel, tables)
    for one, other in (("10.0.0.1", "10.0.0.2"), ("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")):
        facts = Facts("", 0, Direction.OUT, 6, ip_address(one), 1, ip_address(other), 2)
        assert_in_force(kernel, tables, epoch, facts)


@given(cases())
@settings(max_examples=60 * FUZZ)
def test_maps_and_tables_agree_about_any_connection(kernel: Kernel, case: tuple[Policy, list[Facts]]) -> None:
    policy, connections = case
    tables = compile_tables(policy, CAPACITY)
    epoch = write_policy(kernel, tables)
    for facts in connections:
        assert_in_force(kernel, tables, epoch, facts)
