"""One dimension of a compiled policy: from a fact to the set of rules that it satisfies, as one integer.

Rules live in slots, which do not change when rules before them come and go; ``places`` says which bit a slot has now.
So a change of one rule touches its own values and a list of places, and no set of any other rule: sets are put
together when a fact first needs them, and kept until the policy changes.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import contains
from typing import Any, NamedTuple

from tidewaiter.policy.dimensions import Dimension, Span
from tidewaiter.policy.patterns import Pattern, Under, UnusableError, found
from tidewaiter.policy.rule import Facts, Value

KEPT = 1 << 24
"""Bytes of sets that are kept for each dimension; when there are more, all go and are put together anew."""

MANY = 50_000
"""New objects that are not searched for garbage any more, with all that was there before them."""

_FEW = 6
_TOGETHER = 50

Block = tuple[int, int]
"""How many low bits do not count, and the number without them: a prefix."""


class Slots(NamedTuple):
    """The slots of rules by what these name."""

    words: dict[Hashable, list[int]]
    blocks: dict[Block, list[int]]
    patterns: dict[Pattern, list[int]]


_WORDS, _BLOCKS, _PATTERNS = range(3)

Key = tuple[int, Any]
"""One thing that a rule names: which of `Slots`, and under what."""


class Change(NamedTuple):
    """The rules from ``first`` to ``end`` have given way to those in ``slots``, which end at ``new_end``."""

    first: int
    end: int
    new_end: int
    slots: list[int]


def blocks(span: Span) -> Iterator[Block]:
    """The prefixes that hold the numbers of a span and no others."""
    low, end = span[0], span[1] + 1
    size = end - low
    if not size & size - 1 and not low & size - 1:  # one, as of a network
        bits = size.bit_length() - 1
        yield bits, low >> bits
        return
    while low < end:
        # The largest block that begins at low: by its alignment, and by what is left.
        bits = (end - low).bit_length() - 1
        if low:
            bits = min((low & -low).bit_length() - 1, bits)
        yield bits, low >> bits
        low += 1 << bits


def bit_set(places: Iterable[int], length: int) -> int:
    """The set of some bits below ``length``."""
    flags = bytearray((length >> 3) + 1)
    for place in places:
        flags[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(flags, "little")


@contextmanager
def uncollected() -> Iterator[None]:
    """Makes many objects of which none is garbage, without having them searched for garbage again and again.

    Where there are very many they never are: to look at ten thousand rules takes a tenth of a second, in which nothing
    else is done. What is not used any more is freed as ever.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if gc.get_count()[0] > MANY:
                gc.freeze()
            gc.enable()


class Index:
    """The rules that name one dimension in one layer, for what they want or (``negated``) for what they refuse."""

    def __init__(self, dimension: Dimension, *, negated: bool) -> None:
        """Empty: no rule names the dimension yet."""
        self.dimension, self.negated = dimension, negated
        self.named: set[int] = set()
        """The slots of the rules."""
        self._named_bits = 0
        self._all, self._firsts = Slots({}, {}, {}), Slots({}, {}, {})
        self._words, self._blocks, self._patterns = self._all
        self._unders = 0
        self._sizes: Counter[int] = Counter()
        self._edges: Counter[int] = Counter({0: 1})
        self._starts = [0]
        self._groups: list[tuple[str, list[Pattern]]] = []
        self._places: list[int] = []
        self._length = 0
        self._everything = 0
        self._room = 0
        self._kept: dict[Hashable, int] = {}
        self._at_step: dict[int, list[int]] = {}
        self.look: Callable[[Any], int] = self._look_anything
        """The rules that a fact satisfies; with ``dimension.many`` the fact is a tuple of facts."""
        self.first: Callable[[Any], Sequence[int]] = self._first_anything
        """The slots of the rules that are to be found here, by a fact that is what they name."""
        self.holds: Callable[[Sequence[Any], Any], bool] = self._holds_any
        """Whether a fact is one of the `keys` of a rule, given without their kinds."""
        self.value: Callable[[Facts], Any] = dimension.value
        """What finds the fact."""
        self.free = 0
        """The rules that do not name the dimension: every fact satisfies them."""

    def add(self, slot: int, keys: Collection[Key]) -> int:
        """A rule comes to its slot, with its `keys`. `refresh` before the next look. Returns how many rules share one
        of them.
        """
        self.named.add(slot)
        shared = 0
        for kind, key in keys:
            table = self._all[kind]
            slots = table.get(key)
            if slots is None:
                table[key] = [slot]
            else:
                slots.append(slot)
                shared = max(shared, len(slots))
            if kind == _BLOCKS:
                self._step(key, 1)
            elif type(key) is Under:
                self._unders += 1
        return shared

    def add_first(self, slot: int, keys: Collection[Key]) -> None:
        """The rule at a slot is to be found by what it names here (`first`)."""
        for kind, key in keys:
            self._firsts[kind].setdefault(key, []).append(slot)

    def remove(self, slot: int, keys: Collection[Key]) -> None:
        """A rule leaves its slot. `refresh` before the next look."""
        self.named.discard(slot)
        for kind, key in keys:
            for table in (self._all[kind], self._firsts[kind]):
                slots = table.get(key)
                if slots is not None and slot in slots:
                    slots.remove(slot)
                    if not slots:
                        del table[key]
            if kind == _BLOCKS:
                self._step(key, -1)
            elif type(key) is Under:
                self._unders -= 1

    def refresh(self, places: list[int], length: int, change: Change) -> None:
        """Takes notice of where the slots are now, in a set of ``length`` bits."""
        self._places, self._length = places, length
        self._everything = (1 << length) - 1
        self._room = max(256, min(65536, KEPT // (length // 8 + 64)))
        before = self._named_bits
        self._named_bits = before & ((1 << change.first) - 1) | before >> change.end << change.new_end
        self._named_bits |= bit_set([places[slot] for slot in change.slots if slot in self.named], length)
        self.free = self._everything ^ self._named_bits
        self._kept.clear()
        self._at_step.clear()
        patterns = list(self._patterns)
        chunks = [patterns[at : at + _TOGETHER] for at in range(0, len(patterns), _TOGETHER)]
        self._groups = [("|".join(f"(?:{one.expression})" for one in chunk), chunk) for chunk in chunks]
        self.first, self.holds = self._first_anything, self._holds_any
        if patterns or self.dimension.many:
            self.look = self._look_anything
        elif self.dimension.spans is not None:
            self.look, self.holds = self._look_steps, self._holds_number
        else:
            self.look = self._look_anything if self._unders else self._look_words
            if not self._unders:
                self.first, self.holds = self._first_words, contains

    @property
    def has_firsts(self) -> bool:
        """Whether any rule is to be found by this dimension."""
        return any(self._firsts)

    def _first_words(self, fact: Value) -> Sequence[int]:
        return self._firsts.words.get(fact, ())

    def _first_anything(self, fact: Value) -> Sequence[int]:
        facts = (fact or (self.dimension.unknown,)) if self.dimension.many else (fact,)
        return [slot for one in facts for named in self._slots(one, self._firsts) for slot in named]

    def _holds_number(self, named: Sequence[Block | None], fact: int | None) -> bool:
        if fact is None:
            return None in named
        for block in named:  # noqa: SIM110 # half the time of any()
            if block is not None and fact >> block[0] == block[1]:
                return True
        return False

    def _holds_any(self, named: Sequence[Any], fact: Value) -> bool:
        facts = (fact or (self.dimension.unknown,)) if self.dimension.many else (fact,)
        for one in facts:
            unknown = one == self.dimension.unknown
            for wanted in named:
                if wanted == one or (not unknown and self._encloses(wanted, one)):
                    return True
        return False

    def _encloses(self, wanted: Value, fact: Value) -> bool:
        if type(wanted) is Pattern:
            return wanted.matches(self.dimension.text(fact))
        if type(wanted) is Under:
            return wanted.matches(fact)
        if self.dimension.spans is None or wanted is None:
            return False
        bits, high = wanted
        return bool(fact >> bits == high)

    def _look_words(self, fact: Value) -> int:
        """A look where the fact either is a value or is not."""
        kept = self._kept.get(fact)
        if kept is not None:
            return kept
        slots = self._words.get(fact)
        if slots is None:
            return self._everything if self.negated else self.free
        return self._keep(fact, slots)

    def _look_steps(self, fact: Value) -> int:
        """A look where all numbers between two edges are alike."""
        step = -1 if fact is None else bisect_right(self._starts, fact)
        kept = self._kept.get(step)
        if kept is not None:
            return kept
        slots = self._at_step.get(step)
        if slots is None:
            slots = self._at_step[step] = [slot for named in self._slots(fact, self._all) for slot in named]
        return self._keep(step, slots)

    def _look_anything(self, fact: Value) -> int:
        """A look at patterns, at what a text lies in, and at several facts."""
        kept = self._kept.get(fact)
        if kept is not None:
            return kept
        facts = (fact or (self.dimension.unknown,)) if self.dimension.many else (fact,)
        return self._keep(
            fact, [slot for one in facts for named in self._slots(one, self._all) for slot in named]
        )

    def _keep(self, key: Hashable, slots: list[int]) -> int:
        """Puts the set of some rules together, and keeps it."""
        bits = self._everything if self.negated else self.free
        if slots:
            places = self._places
            if len(slots) > _FEW:
                named = bit_set([places[slot] for slot in slots], self._length)
            else:
                named = 0
                for slot in slots:
                    named |= 1 << places[slot]
            bits = bits & ~named if self.negated else bits | named
        if len(self._kept) >= self._room:
            self._kept.clear()
        self._kept[key] = bits
        return bits

    def _slots(self, fact: Value, of: Slots) -> Iterator[list[int]]:  # noqa: PLR0912 # one look in each place
        """The slots of the rules that name what the fact is."""
        words, blocks, patterns = of
        if fact == self.dimension.unknown:
            if fact in words:
                yield words[fact]
            return
        if self.dimension.spans is not None:
            for size in self._sizes:
                if named := blocks.get((size, fact >> size)):
                    yield named
        else:
            if named := words.get(fact):
                yield named
            if self._unders and self.dimension.above is not None:
                for under in self.dimension.above(fact):
                    if named := words.get(under):
                        yield named
        if patterns:
            text = self.dimension.text(fact)
            for expression, those in self._groups:
                if len(those) == 1 or _perhaps(expression, text):
                    yield from (patterns[one] for one in those if one in patterns and one.matches(text))

    def keys(self, values: Sequence[Any]) -> Collection[Key]:
        """What the values of one rule are here, each once."""
        spans = self.dimension.spans
        if spans is None and len(values) == 1 and type(values[0]) is str:  # as most are
            return ((_WORDS, values[0]),)
        keys: dict[Key, None] = {}
        for value in values:
            if type(value) is Pattern:
                keys[_PATTERNS, value] = None
            elif spans is not None and value is not None:
                for span in spans(value):
                    for block in blocks(span):
                        keys[_BLOCKS, block] = None
            else:
                keys[_WORDS, self.dimension.key(value)] = None
        return keys

    def _step(self, block: Block, by: int) -> None:
        size, high = block
        self._sizes[size] += by
        if not self._sizes[size]:
            del self._sizes[size]
        for edge in (high << size, high + 1 << size):
            before = self._edges.get(edge, 0)
            self._edges[edge] = before + by
            if before == 0:
                insort(self._starts, edge)
            elif before + by == 0:
                del self._starts[bisect_left(self._starts, edge)]


def _perhaps(expression: str, text: str) -> bool:
    """Whether any of several patterns may match; together they may be too large to be one, and then each is asked."""
    try:
        return found(expression, text)
    except UnusableError:
        return True
