"""host/policy_maps.py: what is written is read back as it was meant, and nothing else is touched."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
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
    decide_anew,
    set_config,
    switch_off,
    write_policy,
)
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.maps import Map
from tidewaiter.model.key import Address, Direction, Protocol
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Facts, KernelTables, Policy, PortSpan, Rule, compile_tables
from tidewaiter.policy.tables import NOT_RULES

pytestmark = pytest.mark.live

NOBODY = 0xFFFFFFFF
BLOCK = 32  # bytes of a block of rules
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
        found = kernel.map("policy").get(struct.pack("<I", self._generation))
        assert found is not None
        size = 8 + CAPACITY // 8
        sets = [found[at * size : (at + 1) * size] for at in range(9)]
        for one in sets:  # which blocks are not empty is said truly
            blocks = [bits(one[at : at + BLOCK]) for at in range(8, size, BLOCK)]
            assert bits(one[:8]) == sum(1 << number for number, block in enumerate(blocks) if block)
        *kinds, nobody, program, user, remote, local, port = (bits(one[8:]) for one in sets)
        assert nobody == 0
        self._kinds = kinds
        self.others = {PROGRAM: program, USER: user, REMOTE: remote, LOCAL: local, PORT: port}
        *self._plain, self.dimensions = struct.unpack_from("<4QI", found, 9 * size)

    def decide(self, facts: Facts, *, local_known: bool) -> tuple[int, Verdict] | None:
        """The bit and its verdict; None for asking because the local address is not known yet."""
        found, self._seen = self._kinds[facts.direction], self._plain[facts.direction]
        number = self._number(facts.program)
        found &= self._value(PROGRAM, number)
        found &= self._value(USER, facts.uid & NOBODY)
        found &= self._address(REMOTE, facts.remote)
        found &= self._range(PORT, PORT, struct.pack(">BH", facts.protocol, facts.port), 24)
        if local_known:
            found &= self._address(LOCAL, facts.local)
        first = (found & -found).bit_length() - 1
        assert self._seen >> first // (8 * BLOCK) & 1, "its block would not be looked into"
        if not local_known and not self.others[LOCAL] >> first & 1:
            return None
        rule = self._kernel.map("policy_rules").read(value=self._generation * CAPACITY + first)
        assert rule is not None
        return first, Verdict(rule["verdict"])

    def _number(self, program: str) -> int:
        found = self._kernel.map("programs").get(program.encode().rjust(512, b"\0"))
        return bits(found) if found else 0

    def _value(self, dimension: int, value: int) -> int:
        """The rules for a value; the program number 0 is of those that no rule names."""
        key = struct.pack("<BBxxI", self._generation, dimension, value)
        return self.others[dimension] | self._named(self._kernel.map("policy_values").get(key))

    def _address(self, dimension: int, address: Address) -> int:
        family = 0 if address.version == 4 else 64
        return self._range(dimension, dimension | family, address.packed, address.max_prefixlen)

    def _range(self, dimension: int, place: int, data: bytes, length: int) -> int:
        key = struct.pack("<IBB16s2x", 16 + length, self._generation, place, data.ljust(16, b"\0"))
        found = self._kernel.map("policy_ranges").get(key)  # the kernel finds the longest prefix
        assert found is not None
        return self.others[dimension] | self._named(found)

    def _named(self, found: bytes | None) -> int:
        """struct tw_named: the first of its blocks is in it, the others are elsewhere."""
        if found is None:
            return 0
        blocks, number, first = struct.unpack(f"<QI4x{BLOCK}s", found)
        self._seen |= blocks
        assert not blocks or number & 1 == self._generation
        whole, places = 0, [place for place in range(64) if blocks >> place & 1]
        for place in places:
            block = self._kernel.map("policy_blocks").get(struct.pack("<II", number, place))
            assert (block is None) == (place == places[0])
            whole |= bits(block or first) << 8 * BLOCK * place
        return whole


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
    reader = Reader(fresh, epoch)
    assert reader.dimensions == PROGRAM | USER | REMOTE | LOCAL | PORT
    assert reader.others[LOCAL] == 0b1110111


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
    put = Map.put_all

    def full(self: Map, entries: Mapping[bytes, bytes]) -> None:
        if self.name == "policy_ranges":
            put(self, dict(list(entries.items())[:5]))
            raise KernelError(7, "writing map policy_ranges: Argument list too long")
        put(self, entries)

    monkeypatch.setattr(Map, "put_all", full)
    with pytest.raises(KernelError, match="writing map policy_ranges"):
        write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    assert config(fresh) == before
    monkeypatch.undo()
    assert write_policy(fresh, compile_tables(SAMPLE, CAPACITY)) == before["epoch"] + 1


def test_the_epoch_goes_round(fresh: Kernel) -> None:
    set_config(fresh, epoch=0xFFFFFFFF)
    assert write_policy(fresh, compile_tables(Policy(), CAPACITY)) == 0
    assert config(fresh)["epoch"] == 0


def test_the_same_policy_is_put_in_force_once_more(fresh: Kernel) -> None:
    tables = compile_tables(SAMPLE, CAPACITY)
    epoch = write_policy(fresh, tables)
    decide_anew(fresh)
    assert config(fresh)["epoch"] == epoch + 2
    facts = Facts("/usr/bin/a", 1, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80)
    assert_in_force(fresh, tables, epoch + 2, facts)


def test_rules_are_switched_off_under_the_same_epoch(fresh: Kernel) -> None:
    epoch = write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
    facts = [
        Facts("/usr/bin/a", 7, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
        Facts("/usr/bin/b", 7, Direction.OUT, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
        Facts("", -1, Direction.IN, 6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 80),
    ]

    def found() -> list[tuple[int, Verdict] | None]:
        return [Reader(fresh, epoch).decide(one, local_known=True) for one in facts]

    block, ask, drop = (0, Verdict.PERMANENT_BLOCK), (1, Verdict.UNDECIDED), (2, Verdict.PERMANENT_DROP)
    assert found() == [block, ask, drop]
    switch_off(fresh, [0])
    assert found() == [ask, ask, drop]
    switch_off(fresh, [])
    switch_off(fresh, [2, 1, CAPACITY + 5])  # one that the kernel never had
    assert found() == [(4, Verdict.UNDECIDED), (4, Verdict.UNDECIDED), (5, Verdict.PERMANENT_ACCEPT)]
    assert config(fresh)["epoch"] == epoch


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
    last = CAPACITY - NOT_RULES
    for uid, expected in (
        (0, (0, 5)),
        (300, (300, 5)),
        (last - 1, (last - 1, 5)),
        (last, (last, 0)),
        (CAPACITY + 9, (last, 0)),
    ):
        facts = Facts("", uid, Direction.OUT, 6, IPv4Address(1), 1, IPv4Address(2), 1)
        assert reader.decide(facts, local_known=True) == expected


def test_a_set_in_many_blocks(fresh: Kernel) -> None:
    """Values that many rules name, with gaps between them, are written and cleared away again."""
    rules = tuple(
        Rule(
            name=f"{n}",
            answer=Answer.BLOCK,
            users=(n % 7, n),
            remote=(ip_network(f"10.{n // 256}.{n % 256}.0/24"),),
        )
        for n in range(3000)
    )
    tables = compile_tables(Policy(rules), CAPACITY)
    for epoch in (write_policy(fresh, tables), write_policy(fresh, tables)):
        for uid, address in ((6, 2990), (3, 2999), (2500, 2500), (2999, 2999), (5, 6)):
            remote = IPv4Address((10 << 24) + (address << 8) + 1)
            facts = Facts("", uid, Direction.OUT, 6, IPv4Address(1), 1, remote, 1)
            assert_in_force(fresh, tables, epoch, facts)
    written = len(list(fresh.map("policy_blocks").keys()))
    assert written > 2 * 7 * 10
    for _ in range(2):
        write_policy(fresh, compile_tables(Policy(), CAPACITY))
    assert list(fresh.map("policy_blocks").keys()) == []


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


def test_a_new_epoch_is_of_the_same_policy(fresh: Kernel) -> None:
    for _ in range(2):
        epoch = write_policy(fresh, compile_tables(SAMPLE, CAPACITY))
        before = Reader(fresh, epoch).others
        decide_anew(fresh)
        assert config(fresh)["epoch"] == epoch + 2
        assert Reader(fresh, config(fresh)["epoch"]).others == before
    set_config(fresh, epoch=0xFFFFFFFF)
    decide_anew(fresh)
    assert config(fresh)["epoch"] == 1
