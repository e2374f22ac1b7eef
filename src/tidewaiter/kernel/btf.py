"""The types of an eBPF object, read from its own BTF section.

So a structure is written down once, in ``types.h``: the compiler records it in the object, and this module
turns it into a `Layout` that packs and unpacks its bytes.

Sources: Documentation/bpf/btf.rst of the kernel; ELF-64 (System V gABI, chapter 4).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_INTEGER, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
_FUNCTION_PROTOTYPE, _VARIABLE, _DATA_SECTION, _DECLARATION_TAG, _ENUM64 = 13, 14, 15, 17, 19
_SIGNED = 1
_TRANSPARENT = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT})
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_LARGEST = 1 << 20  # bytes; no structure of ours comes near


class BtfError(ValueError):
    """An object whose types cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a structure: ``format`` is that of `struct`, ``count`` > 1 for an array of integers."""

    name: str
    offset: int
    format: str
    count: int = 1


@dataclass(frozen=True)
class Layout:
    """The bytes of one structure (or one integer), by the names of its fields."""

    name: str
    size: int
    members: tuple[Member, ...]

    @cached_property
    def _struct(self) -> struct.Struct:
        text, at = "<", 0
        for member in self.members:
            text += f"{member.offset - at}x{member.format}" if member.offset > at else member.format
            at = member.offset + struct.calcsize("<" + member.format)
        return struct.Struct(text + (f"{self.size - at}x" if self.size > at else ""))

    def unpack(self, data: bytes) -> dict[str, Any]:
        """Fields by name; arrays of integers as tuples, arrays of bytes as bytes."""
        values = iter(self._struct.unpack(data))
        return {
            member.name: next(values)
            if member.count == 1
            else tuple(next(values) for _ in range(member.count))
            for member in self.members
        }

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The inverse of `unpack`; fields left out are zero. Raises KeyError for a name that is no field."""
        unknown = values.keys() - {member.name for member in self.members}
        if unknown:
            raise KeyError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        flat: list[Any] = []
        for member in self.members:
            value = values.get(member.name, b"" if member.format.endswith("s") else (0,) * member.count)
            flat.extend(value if isinstance(value, tuple) else (value,))
        return self._struct.pack(*flat)

    def unpack_tuple(self, data: bytes) -> tuple[Any, ...]:
        """The fields in order, arrays of integers flattened: for where speed counts."""
        return self._struct.unpack(data)

    def offset(self, name: str) -> int:
        """Where a field begins, in bytes. Raises KeyError."""
        for member in self.members:
            if member.name == name:
                return member.offset
        raise KeyError(f"{self.name} has no field {name}")


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    extra: tuple[tuple[int, ...], ...]


class Btf:
    """The types of one object file."""

    def __init__(self, data: bytes, where: str = "BTF") -> None:
        try:
            self._types = _parse(data)
            self._by_name = {t.name: n for n, t in enumerate(self._types) if t.kind == _STRUCT and t.name}
            self._maps = self._find_maps()
            self._variables = self._find_variables()
        except (struct.error, IndexError, ValueError) as error:
            raise BtfError(f"{where}: not BTF that can be read ({error}); build the package again") from error

    @classmethod
    def of_object(cls, path: Path) -> Btf:
        """The BTF section of an ELF object. Raises BtfError."""
        return cls(elf_section(path.read_bytes(), ".BTF", str(path)), str(path))

    def structure(self, name: str) -> Layout:
        """The layout of ``struct name``. Raises BtfError."""
        if name not in self._by_name:
            raise BtfError(f"the object knows no struct {name}; build the package again")
        return self._layout(self._by_name[name])

    def map_types(self, name: str) -> tuple[Layout | None, Layout | None]:
        """The layouts of a map's key and value; None for what has none (ring buffers)."""
        if name not in self._maps:
            raise BtfError(f"the object knows no map {name}; build the package again")
        key, value = self._maps[name]
        return (self._layout(key) if key else None, self._layout(value) if value else None)

    def variable(self, name: str) -> tuple[str, int, int]:
        """Section, offset and size in bytes of a global variable. Raises BtfError."""
        if name not in self._variables:
            raise BtfError(f"the object knows no variable {name}; build the package again")
        return self._variables[name]

    def _find_maps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for section in self._types:
            if section.kind != _DATA_SECTION or section.name != ".maps":
                continue
            for variable, *_ in section.extra:
                definition = self._types[self._types[variable].size_or_type]
                pointers = {
                    name: self._types[kind].size_or_type
                    for name, kind in self._member_names(definition)
                    if name in ("key", "value")
                }
                found[self._types[variable].name] = (pointers.get("key", 0), pointers.get("value", 0))
        return found

    def _find_variables(self) -> dict[str, tuple[str, int, int]]:
        return {
            self._types[number].name: (section.name, offset, size)
            for section in self._types
            if section.kind == _DATA_SECTION
            for number, offset, size in section.extra
        }

    def _member_names(self, structure: _Type) -> list[tuple[str, int]]:
        return [(self._strings(name), kind) for name, kind, _ in structure.extra]

    def _strings(self, offset: int) -> str:
        return self._types[0].name[offset:].split("\0", 1)[0]

    def _resolve(self, number: int) -> _Type:
        found = self._types[number]
        for _ in self._types:
            if found.kind not in _TRANSPARENT:
                return found
            found = self._types[found.size_or_type]
        raise ValueError("a type that is made of itself")

    def _layout(self, number: int) -> Layout:
        try:
            found = self._resolve(number)
            if found.size_or_type > _LARGEST:
                raise ValueError(f"{found.size_or_type} bytes are too many")
            if found.kind == _INTEGER:
                return Layout(found.name, found.size_or_type, (Member("value", 0, self._format(found)),))
            return Layout(found.name, found.size_or_type, tuple(self._members(found, "", 0)))
        except (IndexError, KeyError, ValueError, RecursionError) as error:
            name = self._types[number].name if number < len(self._types) else f"number {number}"
            raise BtfError(f"the type {name} cannot be read ({error}); build the package again") from error

    def _members(self, structure: _Type, prefix: str, base: int) -> list[Member]:
        members: list[Member] = []
        end = base
        for name_offset, kind, bits in structure.extra:
            name, at, member = prefix + self._strings(name_offset), base + bits // 8, self._resolve(kind)
            if at < end or at + self._size(member) > base + structure.size_or_type:
                raise ValueError(f"{name} does not fit")
            end = at + self._size(member)
            if member.kind == _STRUCT:
                members += self._members(member, name + "_", at)
            elif member.kind == _ARRAY:
                members += self._array(member, name, at)
            else:
                members.append(Member(name, at, self._format(member)))
        return members

    def _array(self, array: _Type, name: str, at: int) -> list[Member]:
        (kind, _, count) = array.extra[0]
        element = self._resolve(kind)
        if element.kind == _STRUCT:
            return [
                member
                for index in range(count)
                for member in self._members(element, f"{name}{index}_", at + index * element.size_or_type)
            ]
        form = self._format(element)
        if form in "Bb":
            return [Member(name, at, f"{count}s")]
        return [Member(name, at, form * count, count)]

    def _size(self, kind: _Type) -> int:
        if kind.kind == _ARRAY:
            (element, _, count) = kind.extra[0]
            return count * (self._size(self._resolve(element)) or 1)  # or 1: an array must be bounded
        return 8 if kind.kind == _POINTER else kind.size_or_type

    def _format(self, kind: _Type) -> str:
        form = _FORMATS[self._size(kind)]
        signed = kind.kind == _INTEGER and kind.extra[0][0] >> 24 & _SIGNED
        return form.lower() if signed else form


def _parse(data: bytes) -> list[_Type]:
    magic, version, _, header, types_at, types_size, strings_at, strings_size = struct.unpack_from(
        "<HBBIIIII", data
    )
    if magic != 0xEB9F or version != 1:
        raise ValueError("wrong magic number or version")
    strings = data[header + strings_at : header + strings_at + strings_size].decode("latin-1")
    types = [_Type(strings, 0, 0, ())]  # number 0 is void; it keeps the strings
    at, end = header + types_at, header + types_at + types_size
    while at < end:
        name, info, size_or_type = struct.unpack_from("<III", data, at)
        at += 12
        kind, count, flag = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        form, repeats = _EXTRA.get(kind, ("", 0))
        repeats = count if repeats < 0 else repeats
        extra = tuple(
            struct.unpack_from("<" + form, data, at + n * struct.calcsize("<" + form)) for n in range(repeats)
        )
        if kind in (_STRUCT, _UNION) and flag:  # bit-field sizes share the word with the offset
            extra = tuple((n, t, offset & 0xFFFFFF) for n, t, offset in extra)
        at += repeats * struct.calcsize("<" + form)
        types.append(_Type(strings[name:].split("\0", 1)[0], kind, size_or_type, extra))
    return types


# what follows the twelve bytes of each kind: format, and how often (-1: as often as the type says)
_EXTRA = {
    _INTEGER: ("I", 1),
    _ARRAY: ("III", 1),
    _STRUCT: ("III", -1),
    _UNION: ("III", -1),
    _ENUM: ("II", -1),
    _FUNCTION_PROTOTYPE: ("II", -1),
    _VARIABLE: ("I", 1),
    _DATA_SECTION: ("III", -1),
    _DECLARATION_TAG: ("I", 1),
    _ENUM64: ("III", -1),
}


def elf_section(data: bytes, name: str, where: str) -> bytes:
    """The contents of a section of a 64-bit little-endian ELF file. Raises BtfError."""
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        (sections_at,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", data, sections_at + n * size) for n in range(count)]
        texts = data[headers[names][4] : headers[names][4] + headers[names][5]]
        for name_at, _, _, _, offset, length in headers:
            if texts[name_at : texts.index(b"\0", name_at)] == name.encode():
                return data[offset : offset + length]
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise BtfError(f"{where}: {error}; build the package again") from error
    raise BtfError(f"{where}: no section {name}; build the package again")
