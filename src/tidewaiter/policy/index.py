"""One dimension of a compiled policy: from a fact to the set of rules that it satisfies, as one integer.

Rules live in slots, which do not change when rules before them come and go; ``places`` says which bit a slot has now.
So a change of one rule touches its own values and a list of places, and no set of any other rule: sets are put
together when a fact first needs them, and kept until the policy changes.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tidewaiter.policy.dimensions import Dimension, Span
from tidewaiter.policy.patterns import Pattern, Under, UnusableError, found
from tidewaiter.policy.rule import Value

KEPT = 1 << 24
"""Bytes of sets that are kept for each dimension; when there are more, all go and are put together anew."""

_FEW = 6
_TOGETHER = 50

Block = tuple[int, int]
"""How many low bits do not count, and the number without them: a prefix."""


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
    """Makes many objects of which none is garbage, without having them searched for garbage again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Index:
    """The rules that name one dimension in one layer, for what they want or (``negated``) for what they refuse."""

    def __init__(self, dimension: Dimension, *, negated: bool) -> None:
        """Empty: no rule names the dimension yet."""
        self.dimension, self.negated = dimension, negated
        self.named: set[int] = set()
        self._named_bits = 0
        self._words: dict[Hashable, list[int]] = {}
        self._unders = 0
        self._blocks: dict[Block, list[int]] = {}
        self._sizes: Counter[int] = Counter()
        self._edges: Counter[int] = Counter({0: 1})
        self._starts = [0]
        self._patterns: dict[Pattern, list[int]] = {}
        self._groups: list[tuple[str, list[Pattern]]] = []
        self._places: list[int] = []
        self._length = 0
        self._everything = 0
        self._room = 0
        self._kept: dict[Hashable, int] = {}
        self._at_step: dict[int, list[int]] = {}
        self.look: Callable[[Any], int] = self._look_anything
        """The rules that a fact satisfies; with ``dimension.many`` the fact is a tuple of facts."""
        self.free = 0
        """The rules that do not name the dimension: every fact satisfies them."""

    def add(self, slot: int, values: Sequence[Any]) -> None:
        """A rule comes to its slot. `refresh` before the next look."""
        self.named.add(slot)
        for table, key in self._keys(values):
            slots = table.get(key)
            if slots is None:
                table[key] = [slot]
            else:
                slots.append(slot)
            if table is self._blocks:
                self._step(key, 1)
            elif type(key) is Under:
                self._unders += 1

    def remove(self, slot: int, values: Sequence[Any]) -> None:
        """A rule leaves its slot. `refresh` before the next look."""
        self.named.discard(slot)
        for table, key in self._keys(values):
            table[key].remove(slot)
            if table is self._blocks:
                self._step(key, -1)
            elif type(key) is Under:
                self._unders -= 1
            if not table[key]:
                del table[key]

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
        if patterns or self.dimension.many:
            self.look = self._look_anything
        elif self.dimension.spans is not None:
            self.look = self._look_steps
        else:
            self.look = self._look_anything if self._unders else self._look_words

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
            slots = self._at_step[step] = [slot for named in self._slots(fact) for slot in named]
        return self._keep(step, slots)

    def _look_anything(self, fact: Value) -> int:
        """A look at patterns, at what a text lies in, and at several facts."""
        kept = self._kept.get(fact)
        if kept is not None:
            return kept
        facts = (fact or (self.dimension.unknown,)) if self.dimension.many else (fact,)
        return self._keep(fact, [slot for one in facts for named in self._slots(one) for slot in named])

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

    def _slots(self, fact: Value) -> Iterator[list[int]]:  # noqa: PLR0912 # one look in each place
        """The slots of the rules that name what the fact is."""
        if fact == self.dimension.unknown:
            if fact in self._words:
                yield self._words[fact]
            return
        if self.dimension.spans is not None:
            for size in self._sizes:
                if named := self._blocks.get((size, fact >> size)):
                    yield named
        else:
            words = self._words
            if named := words.get(fact):
                yield named
            if self.dimension.above is not None:
                for under in self.dimension.above(fact):
                    if named := words.get(under):
                        yield named
        if self._groups:
            text = self.dimension.text(fact)
            for expression, patterns in self._groups:
                if len(patterns) == 1 or _perhaps(expression, text):
                    yield from (self._patterns[one] for one in patterns if one.matches(text))

    def _keys(self, values: Sequence[Any]) -> list[tuple[dict[Any, list[int]], Any]]:
        """Where the values of one rule stand, each once."""
        spans, words = self.dimension.spans, self._words
        if spans is None and len(values) == 1 and type(values[0]) is str:  # as most are
            return [(words, values[0])]
        keys: dict[Any, tuple[dict[Any, list[int]], Any]] = {}
        for value in values:
            if type(value) is Pattern:
                keys["pattern", value] = self._patterns, value
            elif spans is not None and value is not None:
                for span in spans(value):
                    for block in blocks(span):
                        keys[block] = self._blocks, block
            else:
                keys["word", value] = words, self.dimension.key(value)
        return list(keys.values())

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
