"""What the native module does, in plain Python: the same answers for the same bytes, slowly."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise

from tidewaiter.lists.domains import TRAILER, Bytes, record
from tidewaiter.lists.entry import NameEntry, listed
from tidewaiter.lists.names import canonical

Shape = tuple[bytes, bytes, int, bool]
Odd = list[tuple[int, int, int]]

_64 = (1 << 64) - 1
_BLANKS = b" \t"
_TOP = re.compile(r"(?:^|\.)(?:(?!localdomain$)[a-z]+|xn--[a-z0-9_-]+)$", re.IGNORECASE)


def siphash(key: bytes, text: bytes) -> int:
    """SipHash-1-3 of a text under a key of 16 bytes."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v0, v1, v2, v3 = (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )

    def turn(word: int, bits: int) -> int:
        return (word << bits | word >> 64 - bits) & _64

    def one_round() -> None:
        nonlocal v0, v1, v2, v3
        v0 = v0 + v1 & _64
        v1 = turn(v1, 13) ^ v0
        v0 = turn(v0, 32)
        v2 = v2 + v3 & _64
        v3 = turn(v3, 16) ^ v2
        v0 = v0 + v3 & _64
        v3 = turn(v3, 21) ^ v0
        v2 = v2 + v1 & _64
        v1 = turn(v1, 17) ^ v2
        v2 = turn(v2, 32)

    whole = len(text) // 8 * 8
    words = [int.from_bytes(text[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(text[whole:], "little") | (len(text) & 255) << 56)
    for word in words:
        v3 ^= word
        one_round()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        one_round()
    return v0 ^ v1 ^ v2 ^ v3


# --- reading lines ---------------------------------------------------------------------------------


def _lines(text: bytes, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Offset and content of each line, and where the next one begins."""
    while start < len(text):
        end = text.find(b"\n", start)
        after = len(text) if end < 0 else end + 1
        end = len(text) if end < 0 else end
        yield start, text[start:end].removesuffix(b"\r"), after
        start = after


def _over(rest: bytes, comments: bytes) -> bool:
    rest = rest.lstrip(_BLANKS)
    return not rest or rest[:1] in {bytes((character,)) for character in comments}


def _skip(rest: bytes, pattern: bytes) -> bytes | None:
    """What follows a pattern, in which a blank stands for one or more."""
    for character in pattern:
        if character == ord(" "):
            shorter = rest.lstrip(_BLANKS)
            if len(shorter) == len(rest):
                return None
            rest = shorter
        elif rest[:1] == bytes((character,)):
            rest = rest[1:]
        else:
            return None
    return rest


def _take_name(line: bytes, shape: Shape, inline_comments: bytes) -> bytes | None:
    before, after, flags, single = shape
    rest = _skip(line, before)
    if rest is None:
        return None
    size = next(
        (i for i, c in enumerate(rest) if not (chr(c).isalnum() and c < 128) and c not in b".-_"), len(rest)
    )
    name = rest[:size].decode("ascii")
    behind = _skip(rest[size:], after)
    if not _TOP.search(name) or behind is None or not _over(behind, inline_comments):
        return None
    try:
        return record(NameEntry(canonical(name, single), flags))
    except ValueError:
        return None


def scan_names(
    text: bytes,
    start: int,
    line: int,
    limit: int,
    shapes: tuple[Shape, ...],
    comments: bytes,
    inline_comments: bytes,
    records: bytearray,
) -> tuple[int, int, int, Odd]:
    """Twin of `_native.scan_names`."""
    found, odd = 0, Odd()
    for offset, content, after in _lines(text, start):
        if len(odd) >= limit:
            break
        start, line = after, line + 1
        if _over(content, b"") or content[0] in comments:
            continue
        taken = next(filter(None, (_take_name(content, shape, inline_comments) for shape in shapes)), None)
        if taken is None:
            odd.append((line, offset, len(content)))
        else:
            records += taken
            found += 1
    return found, start, line, odd


def _take_network(line: bytes, flags: int, inline_comments: bytes) -> bytes | None:
    size = next((i for i, c in enumerate(line) if c in b"/ \t" or c in inline_comments), len(line))
    try:
        packed = ip_address(line[:size].decode("ascii")).packed
    except ValueError:
        return None
    bits, rest = 8 * len(packed), line[size:]
    length = bits
    if rest[:1] == b"/":
        digits = next((i for i, c in enumerate(rest[1:]) if c not in b"0123456789"), len(rest) - 1)
        if not 1 <= digits <= 3:
            return None
        length, rest = int(rest[1 : 1 + digits]), rest[1 + digits :]
    number = int.from_bytes(packed, "big")
    if not 1 <= length <= bits or number & (1 << bits - length) - 1 or not _over(rest, inline_comments):
        return None
    if b"%" in line[:size] or packed.startswith(bytes(10) + b"\xff\xff"):
        return None
    return packed + bytes((length, flags))


def scan_networks(
    text: bytes,
    start: int,
    line: int,
    limit: int,
    flags: int,
    comments: bytes,
    inline_comments: bytes,
    records4: bytearray,
    records6: bytearray,
) -> tuple[int, int, Odd]:
    """Twin of `_native.scan_networks`."""
    odd = Odd()
    for offset, content, after in _lines(text, start):
        if len(odd) >= limit:
            break
        start, line = after, line + 1
        if _over(content, b"") or content[0] in comments:
            continue
        taken = _take_network(content, flags, inline_comments)
        if taken is None:
            odd.append((line, offset, len(content)))
        elif len(taken) == 6:
            records4 += taken
        else:
            records6 += taken
    return start, line, odd


# --- names -----------------------------------------------------------------------------------------


def _look(records: Bytes, slots: Bytes, key: bytes, name: bytes) -> tuple[bool, int]:
    """Whether a name is there and where: its record, or the slot where it would be."""
    count = len(slots) // 5
    first = siphash(key, name)
    for slot in ((first + tried) % count for tried in range(count)):
        if not slots[slot]:
            return False, slot
        at = int.from_bytes(slots[count + 4 * slot : count + 4 * slot + 4], sys.byteorder)
        if bytes(records[at + 2 : at + 2 + records[at]]) == name:
            return True, at
    raise ValueError("more names than the table has room for")


def index(records: bytearray, slots: bytearray, key: bytes) -> tuple[int, int, int]:
    """Twin of `_native.index`."""
    kept, names, masks, at, count = bytearray(), 0, [0, 0], 0, len(slots) // 5
    while at < len(records):
        size = records[at]
        one = records[at : at + 2 + size]
        at += 2 + size
        for scope, said in enumerate((one[1] & 15, one[1] >> 4)):
            masks[scope] |= bool(said) << min(one.count(b".", 2) + 1, 63)
        there, place = _look(kept, slots, key, bytes(one[2:]))
        if there:
            kept[place + 1] |= one[1]
            continue
        slots[place] = siphash(key, bytes(one[2:])) >> 56 or 1
        slots[count + 4 * place : count + 4 * place + 4] = len(kept).to_bytes(4, sys.byteorder)
        kept += one
        names += 1
    records[:] = kept
    return names, masks[0], masks[1]


def find(image: Bytes, name: str) -> int:
    """Twin of `_native.find`."""
    key, size, _, _, _, nearest, slots = TRAILER.unpack(image[-TRAILER.size :])
    name = name.removesuffix(".")
    allowed = all(character.isascii() and (character.isalnum() or character in ".-_") for character in name)
    if not 0 < len(name) <= 253 or not allowed:
        return -1
    backwards = name.lower()[::-1].encode("ascii")
    ends = [at for at in range(1, len(backwards)) if backwards[at : at + 1] == b"."] + [len(backwards)]
    seen = 0
    for end in ends:
        there, at = _look(image[:size], image[size : size + 5 * slots], key, backwards[:end])
        flags = 0
        if there:
            flags = image[at + 1] & 15 if end == len(backwards) else image[at + 1] >> 4
        if flags:
            seen = flags if nearest else seen | flags
    return seen


# --- networks --------------------------------------------------------------------------------------


def flatten(records: bytearray, width: int) -> bytes:
    """Twin of `_native.flatten`: at each place where something begins or ends, the longest prefix decides."""
    networks: dict[tuple[int, int], int] = {}
    for at in range(0, len(records), width + 2):
        first, length = int.from_bytes(records[at : at + width], "big"), records[at + width]
        networks[first, length] = networks.get((first, length), 0) | records[at + width + 1]
    bits = 8 * width
    ends = {first for first, _ in networks} | {first + (1 << bits - length) for first, length in networks}
    places = sorted(ends)
    ranges: list[list[int]] = []
    for first, end in pairwise(places):
        holders = [length for start, length in networks if start <= first < start + (1 << bits - length)]
        if not holders:
            continue
        longest = max(holders)
        flags = networks[first >> bits - longest << bits - longest, longest]
        if not listed(flags & 15):
            continue
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1][1] = end - 1
        else:
            ranges.append([first, end - 1])
    return b"".join(one[side].to_bytes(width, "big") for side in (0, 1) for one in ranges)


def inside(ranges: Bytes, packed: bytes) -> bool:
    """Twin of `_native.inside`."""
    width, half = len(packed), len(ranges) // 2
    firsts = range(0, half, width)
    at = bisect_right(firsts, packed, key=lambda first: bytes(ranges[first : first + width])) - 1
    return at >= 0 and bytes(ranges[half + firsts[at] : half + firsts[at] + width]) >= packed
