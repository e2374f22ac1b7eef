"""Writes a compiled policy into the maps of the kernel half (policy.h), beside the one in force.

Every key carries a generation, the epoch's lowest bit. The new policy is written under the other generation, then
one word, the epoch, is changed: from that moment every packet sees the new policy, and each cached
verdict, which carries the epoch that it came from, is decided again when it is next used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import types
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.rule import Answer
from tidewaiter.policy.tables import KernelTables

PROGRAM, USER, REMOTE, LOCAL, PORT = 1, 2, 4, 8, 16  # enum tw_dimension
_FAMILY_6, _FIXED_BITS, _RULES, _PATH = 64, 16, 256, 512
CAPACITY = _RULES
_VERDICTS = {
    Answer.ACCEPT: Verdict.PERMANENT_ACCEPT,
    Answer.BLOCK: Verdict.PERMANENT_BLOCK,
    Answer.DROP: Verdict.PERMANENT_DROP,
    Answer.ASK: Verdict.UNDECIDED,
}
_RANGE_KEY = struct.Struct("<IBB16s2x")
_VALUE_KEY = struct.Struct("<BBxxI")
_BITS = types().structure("tw_bits")


def write_policy(kernel: Kernel, tables: KernelTables) -> int:
    """Writes ``tables`` and puts them in force; returns the new epoch. Raises KernelError, and then the old
    policy stays in force.
    """
    config = kernel.map("config").read(value=0) or {}
    epoch = int(config["epoch"]) + 1 & 0xFFFFFFFF
    generation = epoch & 1
    _clear(kernel, generation)
    numbers = _number_programs(kernel, tables.programs)
    _write_values(kernel, generation, tables, numbers)
    _write_ranges(kernel, generation, tables)
    rules = kernel.map("policy_rules")
    for index in range(_RULES):
        action = tables.actions[index] if index < len(tables.actions) else None
        verdict = Verdict.UNDECIDED if action is None or action.consult else _VERDICTS[action.answer]
        rules.put(struct.pack("<I", generation * _RULES + index), struct.pack("<B3x", verdict))
    kernel.map("policy").put(struct.pack("<I", generation), _policy(kernel, tables))
    # a path that is new to the kernel makes it look up every process again; it must know so before the epoch changes
    set_config(kernel, programs_version=int(config["programs_version"]) + 1)
    set_config(kernel, epoch=epoch)
    return epoch


def set_config(kernel: Kernel, **fields: int) -> None:
    """Changes fields of struct tw_config."""
    config = kernel.map("config")
    config.write({"value": 0}, (config.read(value=0) or {}) | fields)


def _clear(kernel: Kernel, generation: int) -> None:
    values, ranges = kernel.map("policy_values"), kernel.map("policy_ranges")
    for key in [key for key in values.keys() if key[0] == generation]:  # noqa: SIM118
        values.delete(key)
    for key in [key for key in ranges.keys() if key[4] == generation]:  # noqa: SIM118
        ranges.delete(key)


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


def _write_values(kernel: Kernel, generation: int, tables: KernelTables, numbers: dict[str, int]) -> None:
    values = kernel.map("policy_values")
    for path, number in numbers.items():
        values.put(_VALUE_KEY.pack(generation, PROGRAM, number), _bits(tables.programs[path]))
    for uid, bits in tables.users.items():
        values.put(_VALUE_KEY.pack(generation, USER, uid), _bits(bits))


def _write_ranges(kernel: Kernel, generation: int, tables: KernelTables) -> None:
    ranges = kernel.map("policy_ranges")
    for dimension, networks in ((REMOTE, tables.remote), (LOCAL, tables.local)):
        for network, bits in networks.items():
            family = 0 if network.version == 4 else _FAMILY_6
            ranges.put(
                _range_key(generation, dimension | family, network.network_address.packed, network.prefixlen),
                _bits(bits),
            )
    for (protocol, port, length), bits in tables.ports.items():
        ranges.put(_range_key(generation, PORT, struct.pack(">BH", protocol, port), length), _bits(bits))


def _policy(kernel: Kernel, tables: KernelTables) -> bytes:
    dimensions = 0
    for dimension, constrained in (
        (PROGRAM, bool(tables.programs)),
        (USER, bool(tables.users)),
        (REMOTE, len(set(tables.remote.values())) > 1),
        (LOCAL, len(set(tables.local.values())) > 1),
        (PORT, len(set(tables.ports.values())) > 1),
    ):
        dimensions |= dimension if constrained else 0
    layout = kernel.map("policy").value
    assert layout is not None
    kinds = {f"kinds{direction}_word": _words(tables.kinds[direction]) for direction in Direction}
    sets = {
        "local_word": _words(tables.local_mask),
        "program_word": _words(tables.any_program),
        "user_word": _words(tables.any_user),
    }
    return layout.pack(kinds | sets | {"dimensions": dimensions})


def _range_key(generation: int, dimension: int, prefix: bytes, bits: int) -> bytes:
    return _RANGE_KEY.pack(_FIXED_BITS + bits, generation, dimension, prefix.ljust(16, b"\0"))


def _words(bits: int) -> tuple[int, ...]:
    return tuple(bits >> 64 * word & 0xFFFFFFFFFFFFFFFF for word in range(_RULES // 64))


def _bits(bits: int) -> bytes:
    return _BITS.pack({"word": _words(bits)})
