"""Writes a compiled policy into the maps of the kernel half (policy.h), beside the one in force.

Every key carries a generation, the epoch's lowest bit. The new policy is written under the other generation, then
one word, the epoch, is changed: from that moment every packet sees the new policy, and each cached
verdict, which carries the epoch that it came from, is decided again when it is next used.

What is there already is not written again: of each generation it is known what has changed since it was written. So a
change of one rule costs what that rule names, twice. What a large change leaves to be written a second time is written
before the next one comes, a little at a time (`PolicyMaps.catch_up`).

A set of rules is cut into blocks of 256. The rules that any value satisfies are in struct tw_policy; the table of the
dimension has for each value those that it turns, which mostly are in one block.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from tidewaiter.host.symlinks import Symlinks
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.classifier import lowest_bit
from tidewaiter.policy.document import Policy
from tidewaiter.policy.index import uncollected
from tidewaiter.policy.named import prefix_network
from tidewaiter.policy.rule import Answer
from tidewaiter.policy.tables import Change, KernelTables

PROGRAM, USER, REMOTE, LOCAL, PORT = 1, 2, 4, 8, 16  # enum tw_dimension
_PLACES = {
    "program": PROGRAM,
    "user": USER,
    "remote": REMOTE,
    "local": LOCAL,
    "port": PORT,
}  # and enum tw_place
_FAMILY_6, _FIXED_BITS, _PATH = 64, 16, 512
CAPACITY = 16384
"""Bits in a set of rules: TW_RULES."""

SLICE = 256
"""Values that `PolicyMaps.catch_up` writes at a time: a few milliseconds."""

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
_MAPS = ("policy_values", "policy_ranges", "policy_blocks")


class PolicyMaps:
    """The policy in the maps of one kernel half; nobody else may write there."""

    def __init__(self, kernel: Kernel, symlinks: Symlinks | None = None) -> None:
        """Nothing is known yet of what is in the maps."""
        self._kernel = kernel
        self._symlinks = symlinks or Symlinks()
        self.tables: KernelTables | None = None
        self._numbers: dict[str, int] | None = None
        self._behind: list[Change | None] = [None, None]
        self._sets = [_Sets(0), _Sets(1)]
        self.policy = Policy()
        """The policy in force, with the executables that this host's links lead to."""

    def put(self, policy: Policy) -> int:
        """Writes a policy, as this host understands it, and puts it in force; returns the new epoch.

        Raises KernelError, and then the old policy stays in force.
        """
        policy = self._symlinks.follow(policy)
        change = Change()
        if self.tables is None:
            self.tables = KernelTables(policy, CAPACITY)
        else:
            change = self.tables.update(policy)
        for behind in self._behind:
            if behind is not None:
                behind.add(change)
        config = self._kernel.map("config").read(value=0) or {}
        epoch = int(config["epoch"]) + 1 & 0xFFFFFFFF
        generation = epoch & 1
        missing, self._behind[generation] = self._behind[generation], None  # not known if this fails
        programs = self.tables.named["program"].keys() if missing is None else missing.values["program"]
        if self._number_programs(programs):
            # a path that is new to the kernel makes it look up every process again; it must know so before the epoch
            # changes
            set_config(self._kernel, programs_version=int(config["programs_version"]) + 1)
        with uncollected():
            self._write(self.tables, generation, missing)
        set_config(self._kernel, epoch=epoch)
        self._behind[generation] = Change({name: set() for name in _PLACES})
        self.policy = policy
        return epoch

    def catch_up(self) -> bool:
        """Writes some of what has changed into the generation that is not in force. Whether there is more to do."""
        if self.tables is None:
            return False
        generation = int((self._kernel.map("config").read(value=0) or {})["epoch"]) + 1 & 1
        missing, self._behind[generation] = self._behind[generation], None  # not known if this fails
        try:
            if missing is None:
                self._clear(generation)
                missing = self._everything(self.tables)
            elif now := missing.take(SLICE):
                with uncollected():
                    self._write(self.tables, generation, now)
        except KernelError:
            return False  # the next policy writes all of it, and says why that fails
        self._behind[generation] = missing
        return bool(missing)

    def switch_off(self, places: Iterable[int]) -> None:
        """Takes rules, by their places, out of the policy in force. What they have decided stays: the epoch does not
        change.

        A rule that is in no direction's set is never the first match. The sets only lose bits, so whoever looks at them
        meanwhile sees each rule either as it was or switched off.
        """
        bits = self.tables.bits if self.tables is not None else []
        epoch = int((self._kernel.map("config").read(value=0) or {})["epoch"])
        table, key = self._kernel.map("policy"), struct.pack("<I", epoch & 1)
        policy = bytearray(table.get(key) or b"")
        for bit in (bits[place] for place in places if place < len(bits)):
            for direction in Direction:
                policy[direction * _OTHERS.size + 8 + bit // 8] &= ~(1 << bit % 8)
        if policy:
            table.put(key, bytes(policy))

    def names(self) -> tuple[str, ...]:
        """The names of rules by their bit; those of the defaults follow, of rules without a bit, and what is no rule.

        When there are more rules than the kernel has room for, the bit behind its last one stands for no rule.
        """
        tables = self.tables
        if tables is None:
            return ()
        names = [""] * tables.end
        for bit, rule in zip(tables.bits, tables.rules, strict=True):
            names[bit] = rule.name
        beyond = [rule.name for rule in self.policy.rules[len(tables.rules) :]]
        return (*names, *([] if tables.whole else ["", *beyond]), *("default",) * 3, "time-out", "shutdown")

    def _write(self, tables: KernelTables, generation: int, missing: Change | None) -> None:
        """Brings a generation that is not in force up to date; None for what is ``missing``: all is written anew."""
        if missing is None:
            self._clear(generation)
            missing = self._everything(tables)
        sets = self._sets[generation]
        written: dict[str, dict[bytes, bytes]] = {name: {} for name in _MAPS}
        gone: dict[str, list[bytes]] = {name: [] for name in _MAPS}
        for name, keys in missing.values.items():
            table = "policy_values" if name in {"program", "user"} else "policy_ranges"
            make_key = self._key_maker(generation, name)
            for value, bits in tables.named[name].turned(keys):
                key = make_key(value)
                if key is None:
                    continue
                packed = sets.pack(key, bits or 0)
                if bits is None:
                    gone[table].append(key)
                else:  # also without rules: what covers it may have some
                    written[table][key] = packed
        gone["policy_blocks"], written["policy_blocks"] = sets.changes()
        for name in _MAPS:
            self._kernel.map(name).delete_all(gone[name])
            self._kernel.map(name).put_all(written[name])
        self._kernel.map("policy_rules").put_all(_actions(generation, tables, missing.bits))
        self._kernel.map("policy").put(struct.pack("<I", generation), _policy(tables))

    def _everything(self, tables: KernelTables) -> Change:
        return Change({name: named.keys() for name, named in tables.named.items()}, set(range(CAPACITY)))

    def _clear(self, generation: int) -> None:
        self._sets[generation] = _Sets(generation)
        for name in _MAPS:
            place = 4 if name == "policy_ranges" else 0
            table = self._kernel.map(name)
            table.delete_all([key for key in table.keys() if key[place] & 1 == generation])  # noqa: SIM118

    def _number_programs(self, paths: Iterable[str]) -> bool:
        """Has the kernel number the paths that it does not know; whether there were any."""
        known = self._kernel.map("programs")
        if self._numbers is None:
            self._numbers = {_path_of(key): int.from_bytes(value, "little") for key, value in known.items()}
        numbers, before = self._numbers, len(self._numbers)
        for path in paths:
            # longer than the kernel tells paths apart: such a program is never decided there
            if path not in numbers and len(raw := _raw(path)) <= _PATH:
                number = len(numbers) + 1
                known.put(raw.rjust(_PATH, b"\0"), struct.pack("<I", number))
                numbers[path] = number
        return len(numbers) > before

    def _key_maker(self, generation: int, dimension: str) -> Callable[[Any], bytes | None]:
        """What makes the key of a value; None for a program without a number."""
        place = _PLACES[dimension]
        if dimension == "program":
            numbers = self._numbers or {}
            return lambda path: _VALUE_KEY.pack(generation, place, numbers[path]) if path in numbers else None
        if dimension == "user":
            return lambda uid: _VALUE_KEY.pack(generation, place, uid)
        if dimension == "port":
            return lambda prefix: _range_key(
                generation, place, (prefix >> 8).to_bytes(3, "big"), prefix & 255
            )

        def of_network(prefix: int) -> bytes:
            version, address, length = prefix_network(prefix)
            return _range_key(generation, place | (_FAMILY_6 if version == 6 else 0), address, length)

        return of_network


class _Sets:
    """The sets of one generation in the form of struct tw_named. Equal ones share what does not fit into it."""

    def __init__(self, generation: int) -> None:
        self._next = generation
        self._free: list[int] = []
        self._shared: dict[bytes, list[int]] = {}  # the number of the blocks, and how many have it
        self._rest: dict[bytes, bytes] = {}  # the blocks of a key, where there are any besides the first
        self._written: dict[bytes, bytes] = {}
        self._gone: list[bytes] = []

    def pack(self, key: bytes, bits: int) -> bytes:
        """The structure for what has a key in the kernel; ``bits`` of 0: it has nothing any more."""
        parts = _cut(bits)
        if len(parts) == 1 and key not in self._rest:  # as most are
            ((block, part),) = parts
            return _NAMED.pack(1 << block, 0, part)
        number = self._share(key, parts[1:])
        first = parts[0][1] if parts else bytes(_BLOCK_BYTES)
        return _NAMED.pack(_summary(parts), number, first)

    def changes(self) -> tuple[list[bytes], dict[bytes, bytes]]:
        """The blocks to delete, and then those to write, since the last call."""
        found, self._gone, self._written = (self._gone, self._written), [], {}
        return found

    def _share(self, key: bytes, parts: list[tuple[int, bytes]]) -> int:
        rest = b"".join(block.to_bytes(4, "little") + part for block, part in parts)
        before = self._rest.get(key, b"")
        if rest == before:
            return self._shared[rest][0] if rest else 0
        if rest:
            entry = self._shared.get(rest)
            if entry is None:
                entry = self._shared[rest] = [self._number(), 0]
                self._written |= {_BLOCK_KEY.pack(entry[0], block): part for block, part in parts}
            entry[1] += 1
            self._rest[key] = rest
        if before:
            self._drop(before)
            if not rest:
                del self._rest[key]
        return self._shared[rest][0] if rest else 0

    def _drop(self, rest: bytes) -> None:
        entry = self._shared[rest]
        entry[1] -= 1
        if entry[1]:
            return
        del self._shared[rest]
        for at in range(0, len(rest), 4 + _BLOCK_BYTES):
            block = _BLOCK_KEY.pack(entry[0], int.from_bytes(rest[at : at + 4], "little"))
            if self._written.pop(block, None) is None:
                self._gone.append(block)
        self._free.append(entry[0])

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        number, self._next = self._next, self._next + 2
        return number


def decide_anew(kernel: Kernel) -> None:
    """The same policy in force once more: each cached verdict is decided again when it is next used."""
    config = kernel.map("config").read(value=0) or {}
    # the lowest bit says where its tables are
    set_config(kernel, epoch=int(config["epoch"]) + 2 & 0xFFFFFFFF)


def set_config(kernel: Kernel, **fields: int) -> None:
    """Changes fields of struct tw_config."""
    config = kernel.map("config")
    config.write({"value": 0}, (config.read(value=0) or {}) | fields)


def _cut(bits: int) -> list[tuple[int, bytes]]:
    """The blocks of a set that are not empty, by their number."""
    if bits.bit_count() == 1:  # one rule: there is no need to look for it
        block, at = divmod(bits.bit_length() - 1, _BLOCK_BITS)
        return [(block, (1 << at).to_bytes(_BLOCK_BYTES, "little"))]
    parts = []
    while bits:
        block = lowest_bit(bits) // _BLOCK_BITS
        part = bits >> block * _BLOCK_BITS & _BLOCK
        parts.append((block, part.to_bytes(_BLOCK_BYTES, "little")))
        bits ^= part << block * _BLOCK_BITS
    return parts


def _summary(parts: Iterable[tuple[int, bytes]]) -> int:
    return sum(1 << block for block, _ in parts)


def _actions(generation: int, tables: KernelTables, bits: Iterable[int]) -> dict[bytes, bytes]:
    """What to do by each bit; by one that no set has, nothing is decided."""
    entries = {}
    for bit in bits:
        action = tables.actions.get(bit)
        verdict = Verdict.UNDECIDED if action is None or action.consult else _VERDICTS[action.answer]
        entries[struct.pack("<I", generation * CAPACITY + bit)] = struct.pack("<B3x", verdict)
    return entries


def _policy(tables: KernelTables) -> bytes:
    """struct tw_policy."""
    others = {name: tables.others(name) for name in _PLACES}
    sets = [tables.kinds[direction] for direction in Direction] + [0] + list(others.values())
    whole = b"".join(
        _OTHERS.pack(_summary(_cut(bits)), bits.to_bytes(CAPACITY // 8, "little")) for bits in sets
    )
    whole += tables.named["local"].looking.to_bytes(CAPACITY // 8, "little")
    wanting_nothing = others["program"] & others["user"] & others["remote"] & others["port"]
    plain = [_summary(_cut(tables.kinds[direction] & wanting_nothing)) for direction in Direction]
    dimensions = sum(place for name, place in _PLACES.items() if tables.named[name].looking)
    return whole + struct.pack("<4QI4x", *plain, 0, dimensions)


def _range_key(generation: int, dimension: int, prefix: bytes, bits: int) -> bytes:
    return _RANGE_KEY.pack(_FIXED_BITS + bits, generation, dimension, prefix.ljust(16, b"\0"))


def _raw(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


def _path_of(key: bytes) -> str:
    return key.lstrip(b"\0").decode(errors="surrogateescape")
