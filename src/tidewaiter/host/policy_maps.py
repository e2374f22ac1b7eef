"""Writes a compiled policy into the maps of the kernel half (policy.h), beside the one in force.

Every key carries a generation, the epoch's lowest bit. The new policy is written under the other generation, then
one word, the epoch, is changed: from that moment every packet sees the new policy, and each cached
verdict, which carries the epoch that it came from, is decided again when it is next used.

A set of rules is cut into blocks of 256. The rules that do not look at a dimension are in struct tw_policy; the table
of the dimension has for each value those that name it, which mostly are in one block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from tidewaiter.kernel.loader import Kernel
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.classifier import lowest_bit
from tidewaiter.policy.rule import Answer
from tidewaiter.policy.tables import NOT_RULES, KernelTables

PROGRAM, USER, REMOTE, LOCAL, PORT = 1, 2, 4, 8, 16  # enum tw_dimension
_FAMILY_6, _FIXED_BITS, _PATH = 64, 16, 512
CAPACITY = 16384
"""Bits in a set of rules: TW_RULES."""

_BLOCK_BITS = 256  # 64 * TW_WORDS
_BLOCK_BYTES = _BLOCK_BITS // 8
_BLOCK = (1 << _BLOCK_BITS) - 1
_VERDICTS = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.DROP: Verdict.PERMANENT_DROP,
    Answer.ASK: Verdict.UNDECIDED,
}
_RANGE_KEY = struct.Struct("<IBB16s2x")
_VALUE_KEY = struct.Struct("<BBxxI")
_NAMED = struct.Struct(f"<QI4x{_BLOCK_BYTES}s")
_BLOCK_KEY = struct.Struct("<II")
_OTHERS = struct.Struct(f"<Q{CAPACITY // 8}s")


def write_policy(kernel: Kernel, tables: KernelTables) -> int:
    """Writes ``tables`` and puts them in force; returns the new epoch. Raises KernelError, and then the old
    policy stays in force.
    """
    config = kernel.map("config").read(value=0) or {}
    epoch = int(config["epoch"]) + 1 & 0xFFFFFFFF
    generation = epoch & 1
    _clear(kernel, generation)
    sets = _Sets(generation)
    kernel.map("policy_values").put_all(
        _values(generation, tables, _number_programs(kernel, tables.programs), sets)
    )
    kernel.map("policy_ranges").put_all(_ranges(generation, tables, sets))
    kernel.map("policy_blocks").put_all(sets.blocks)
    kernel.map("policy_rules").put_all(_rules(generation, tables))
    kernel.map("policy").put(struct.pack("<I", generation), _policy(tables))
    # a path that is new to the kernel makes it look up every process again; it must know so before the epoch changes
    set_config(kernel, programs_version=int(config["programs_version"]) + 1)
    set_config(kernel, epoch=epoch)
    return epoch


def decide_anew(kernel: Kernel) -> None:
    """The same policy in force once more: each cached verdict is decided again when it is next used."""
    config = kernel.map("config").read(value=0) or {}
    set_config(
        kernel, epoch=int(config["epoch"]) + 2 & 0xFFFFFFFF
    )  # the lowest bit says where its tables are


def switch_off(kernel: Kernel, bits: Iterable[int]) -> None:
    """Takes rules out of the policy in force. What they have decided stays: the epoch does not change.

    A rule that is in no direction's set is never the first match. The sets only lose bits, so whoever looks at them
    meanwhile sees each rule either as it was or switched off.
    """
    epoch = int((kernel.map("config").read(value=0) or {})["epoch"])
    table, key = kernel.map("policy"), struct.pack("<I", epoch & 1)
    policy = bytearray(table.get(key) or b"")
    for bit in bits:
        for direction in Direction:
            if bit < CAPACITY - NOT_RULES and policy:
                policy[direction * _OTHERS.size + 8 + bit // 8] &= ~(1 << bit % 8)
    if policy:
        table.put(key, bytes(policy))


def set_config(kernel: Kernel, **fields: int) -> None:
    """Changes fields of struct tw_config."""
    config = kernel.map("config")
    config.write({"value": 0}, (config.read(value=0) or {}) | fields)


def _clear(kernel: Kernel, generation: int) -> None:
    for name, place in (("policy_values", 0), ("policy_ranges", 4), ("policy_blocks", 0)):
        table = kernel.map(name)
        table.delete_all([key for key in table.keys() if key[place] & 1 == generation])  # noqa: SIM118


class _Sets:
    """Puts sets of rules into the form of struct tw_named. ``blocks``: those that have no room in it."""

    def __init__(self, generation: int) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self._generation = generation
        self._packed: dict[int, bytes] = {}  # many values are named by the same rules

    def pack(self, bits: int) -> bytes:
        """The structure."""
        packed = self._packed.get(bits)
        if packed is None:
            number, parts = 2 * len(self._packed) + self._generation, _cut(bits)
            self.blocks |= {_BLOCK_KEY.pack(number, block): part for block, part in parts[1:]}
            first = parts[0][1] if parts else bytes(_BLOCK_BYTES)
            packed = self._packed[bits] = _NAMED.pack(_summary(parts), number, first)
        return packed


def _cut(bits: int) -> list[tuple[int, bytes]]:
    """The blocks of a set that are not empty, by their number."""
    parts = []
    while bits:
        block = lowest_bit(bits) // _BLOCK_BITS
        part = bits >> block * _BLOCK_BITS & _BLOCK
        parts.append((block, part.to_bytes(_BLOCK_BYTES, "little")))
        bits ^= part << block * _BLOCK_BITS
    return parts


def _summary(parts: Iterable[tuple[int, bytes]]) -> int:
    return sum(1 << block for block, _ in parts)


def _number_programs(kernel: Kernel, paths: Iterable[str]) -> dict[str, int]:
    known = kernel.map("programs")
    numbers: dict[str, int] = {}
    highest = max((int.from_bytes(value, "little") for _, value in known.items()), default=0)
    for path in paths:
        raw = path.encode(errors="surrogateescape")
        if len(raw) > _PATH:
            continue  # longer than the kernel tells paths apart: such a program is never decided there
        key = raw.rjust(_PATH, b"\0")
        value = known.get(key)
        if value is None:
            highest += 1
            value = struct.pack("<I", highest)
            known.put(key, value)
        numbers[path] = int.from_bytes(value, "little")
    return numbers


def _values(
    generation: int, tables: KernelTables, numbers: Mapping[str, int], sets: _Sets
) -> dict[bytes, bytes]:
    programs = {
        _VALUE_KEY.pack(generation, PROGRAM, number): sets.pack(tables.programs[path] & ~tables.any_program)
        for path, number in numbers.items()
    }
    users = {
        _VALUE_KEY.pack(generation, USER, uid): sets.pack(bits & ~tables.any_user)
        for uid, bits in tables.users.items()
    }
    return programs | users


def _ranges(generation: int, tables: KernelTables, sets: _Sets) -> dict[bytes, bytes]:
    entries = {}
    for dimension, networks, others in (
        (REMOTE, tables.remote, tables.any_remote),
        (LOCAL, tables.local, tables.any_local),
    ):
        for network, bits in networks.items():
            place = dimension | (0 if network.version == 4 else _FAMILY_6)
            key = _range_key(generation, place, network.network_address.packed, network.prefixlen)
            entries[key] = sets.pack(bits & ~others)
    for (protocol, port, length), bits in tables.ports.items():
        key = _range_key(generation, PORT, struct.pack(">BH", protocol, port), length)
        entries[key] = sets.pack(bits & ~tables.any_port)
    return entries


def _rules(generation: int, tables: KernelTables) -> dict[bytes, bytes]:
    """What to do by each bit; by one that no set has, nothing is decided."""
    verdicts = [
        Verdict.UNDECIDED if action.consult else _VERDICTS[action.answer] for action in tables.actions
    ]
    verdicts += [Verdict.UNDECIDED] * (CAPACITY - len(verdicts))
    return {
        struct.pack("<I", generation * CAPACITY + bit): struct.pack("<B3x", verdict)
        for bit, verdict in enumerate(verdicts)
    }


def _policy(tables: KernelTables) -> bytes:
    """struct tw_policy."""
    by_place = (tables.any_program, tables.any_user, tables.any_remote, tables.any_local, tables.any_port)
    constrained = (
        (PROGRAM, bool(tables.programs)),
        (USER, bool(tables.users)),
        (REMOTE, len(set(tables.remote.values())) > 1),
        (LOCAL, len(set(tables.local.values())) > 1),
        (PORT, len(set(tables.ports.values())) > 1),
    )
    dimensions = sum(dimension for dimension, used in constrained if used)
    sets = [tables.kinds[direction] for direction in Direction] + [0] + list(by_place)
    whole = b"".join(
        _OTHERS.pack(_summary(_cut(bits)), bits.to_bytes(CAPACITY // 8, "little")) for bits in sets
    )
    looking_at_nothing = tables.any_program & tables.any_user & tables.any_remote & tables.any_port
    plain = [_summary(_cut(tables.kinds[direction] & looking_at_nothing)) for direction in Direction]
    return whole + struct.pack("<4QI4x", *plain, 0, dimensions)


def _range_key(generation: int, dimension: int, prefix: bytes, bits: int) -> bytes:
    return _RANGE_KEY.pack(_FIXED_BITS + bits, generation, dimension, prefix.ljust(16, b"\0"))
