"""kernel/btf.py: types out of an object, bytes by their names, and hostile objects."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.kernel import objects
from tidewaiter.kernel.btf import Btf, BtfError, Layout, Member, elf_section
from tidewaiter.kernel.objects import Mode

SOURCE = """
typedef unsigned int number;
struct inner { unsigned char a; unsigned short b; };
enum colour { RED = 1, BLUE = 2 };
struct sample {
    signed char small;
    const volatile number big;
    struct inner in;
    struct inner both[2];
    unsigned char bytes[3];
    short shorts[2];
    enum colour colour;
    void *pointer;
    unsigned long long last;
};
struct { int (*type)[1]; unsigned long long *key; struct sample *value; } things
    __attribute__((section(".maps"), used));
struct { int (*type)[27]; int (*max_entries)[4096]; } ring __attribute__((section(".maps"), used));
const volatile unsigned short first = 1;
const volatile unsigned int second = 2;
int use(void) { return first + second; }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("btf")
    source, output = folder / "sample.c", folder / "sample.o"
    source.write_text(SOURCE)
    subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", source, "-o", output], check=True)
    return output


@pytest.fixture(scope="module")
def types(built: Path) -> Btf:
    return Btf.of_object(built)


def test_fields_are_flat_and_named_by_their_path(types: Btf) -> None:
    layout = types.structure("sample")
    assert layout == Layout(
        "sample",
        48,
        (
            Member("small", 0, "b"),
            Member("big", 4, "I"),
            Member("in_a", 8, "B"),
            Member("in_b", 10, "H"),
            Member("both0_a", 12, "B"),
            Member("both0_b", 14, "H"),
            Member("both1_a", 16, "B"),
            Member("both1_b", 18, "H"),
            Member("bytes", 20, "3s"),
            Member("shorts", 24, "hh", 2),
            Member("colour", 28, "I"),
            Member("pointer", 32, "Q"),
            Member("last", 40, "Q"),
        ),
    )
    assert layout.offset("both1_b") == 18
    with pytest.raises(KeyError, match="sample has no field nothing"):
        layout.offset("nothing")


def test_maps_have_the_types_that_they_were_declared_with(types: Btf) -> None:
    key, value = types.map_types("things")
    assert key is not None
    assert (key.size, key.members) == (8, (Member("value", 0, "Q"),))
    assert value == types.structure("sample")
    assert types.map_types("ring") == (None, None)


def test_variables_are_found_in_their_section(types: Btf) -> None:
    found = {name: types.variable(name) for name in ("first", "second")}
    assert {section for section, _, _ in found.values()} == {".rodata"}
    assert (found["first"][2], found["second"][2]) == (2, 4)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda types: types.structure("nobody"), "no struct nobody"),
        (lambda types: types.structure("number"), "no struct number"),
        (lambda types: types.map_types("nobody"), "no map nobody"),
        (lambda types: types.variable("nobody"), "no variable nobody"),
    ],
)
def test_what_is_not_there_is_said(types: Btf, ask: object, says: str) -> None:
    assert callable(ask)
    with pytest.raises(BtfError, match=f"the object knows {says}; build the package again"):
        ask(types)


VALUES = st.fixed_dictionaries(
    {
        "small": st.integers(-128, 127),
        "big": st.integers(0, 2**32 - 1),
        "in_a": st.integers(0, 255),
        "both1_b": st.integers(0, 65535),
        "bytes": st.binary(min_size=3, max_size=3),
        "shorts": st.tuples(*[st.integers(-(2**15), 2**15 - 1)] * 2),
        "pointer": st.integers(0, 2**64 - 1),
    }
)


@given(VALUES)
@settings(max_examples=100 * FUZZ)
def test_packing_and_unpacking_are_inverse(types: Btf, values: dict[str, object]) -> None:
    layout = types.structure("sample")
    data = layout.pack(values)
    assert len(data) == layout.size
    unpacked = layout.unpack(data)
    assert values.items() <= unpacked.items()
    assert {unpacked[name] for name in ("in_b", "both0_a", "both0_b", "colour", "last")} == {0}
    assert layout.pack(unpacked) == data
    assert layout.unpack_tuple(data)[:2] == (values["small"], values["big"])


def test_bytes_stand_where_the_compiler_puts_them(types: Btf) -> None:
    data = types.structure("sample").pack({"small": -1, "big": 0x01020304, "shorts": (1, -2), "last": 7})
    assert data[:8] == b"\xff\0\0\0\x04\x03\x02\x01"
    assert data[24:28] == b"\x01\0\xfe\xff"
    assert data[40:] == struct.pack("<Q", 7)


def test_a_field_that_is_none_is_not_packed_silently(types: Btf) -> None:
    with pytest.raises(KeyError, match="sample has no field colur, lst"):
        types.structure("sample").pack({"lst": 1, "colur": 2, "last": 3})


def test_the_shared_types_are_those_of_every_object() -> None:
    for spec in objects.CGROUP_OBJECTS:
        types = Btf.of_object(spec.path(Mode.OBSERVE))
        assert types.map_types("flows") == objects.maps().map_types("flows")


# --- hostile bytes ---------------------------------------------------------------------------------


def test_no_object_at_all(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"hello, world", "short": b"\x7fELF\x02\x01"}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BtfError, match=f"{name}: .*; build the package again"):
            Btf.of_object(path)


def test_an_object_without_types(tmp_path: Path) -> None:
    source, output = tmp_path / "plain.c", tmp_path / "plain.o"
    source.write_text("int x;")
    subprocess.run(["clang", "-target", "bpf", "-c", source, "-o", output], check=True)
    with pytest.raises(BtfError, match=r"no section \.BTF"):
        Btf.of_object(output)


@st.composite
def damage(draw: st.DrawFn, size: int) -> list[tuple[int, bytes]]:
    """Some places of ``size`` bytes and what to write there: headers more often than the rest."""
    at = st.integers(0, 63) | st.integers(0, max(0, size - 1))
    extremes = st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\1\0\0\0", b"\0\0\0\x80"])
    return draw(st.lists(st.tuples(at, extremes | st.binary(min_size=1, max_size=8)), max_size=6))


def damaged(data: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    copy = bytearray(data)
    for at, change in changes:
        copy[at : at + len(change)] = change
    return bytes(copy[: max(0, len(copy) - cut)])


def read_everything(data: bytes) -> None:
    """What the loader does with an object's types, with every one of them."""
    types = Btf(data)
    for name in [*types._by_name, "sample", "inner"]:
        ignore(lambda name=name: types.structure(name).pack({}))
    for name in [*types._maps, "things"]:
        ignore(lambda name=name: types.map_types(name))
    ignore(lambda: types.variable("first"))


def ignore(action: object) -> None:
    assert callable(action)
    try:
        action()
    except BtfError as error:
        assert str(error)


@given(st.data())
@settings(max_examples=500 * FUZZ)
def test_hostile_types_raise_btf_error_only(built: Path, data: st.DataObject) -> None:
    section = elf_section(built.read_bytes(), ".BTF", "sample")
    changes, cut = data.draw(damage(len(section))), data.draw(st.just(0) | st.integers(0, len(section)))
    ignore(lambda: read_everything(damaged(section, changes, cut)))


@given(st.data())
@settings(max_examples=300 * FUZZ)
def test_hostile_objects_raise_btf_error_only(built: Path, data: st.DataObject) -> None:
    whole = built.read_bytes()
    changes, cut = data.draw(damage(len(whole))), data.draw(st.just(0) | st.integers(0, len(whole)))
    ignore(lambda: read_everything(elf_section(damaged(whole, changes, cut), ".BTF", "sample")))


@given(st.binary(max_size=200))
@settings(max_examples=300 * FUZZ)
def test_random_bytes_raise_btf_error_only(data: bytes) -> None:
    ignore(lambda: Btf(data))
    ignore(lambda: Btf(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), 0, len(data)) + data))
    ignore(lambda: elf_section(b"\x7fELF\x02\x01" + data, ".BTF", "x"))


def header(types: bytes, strings: bytes) -> bytes:
    sizes = struct.pack("<IIIII", 24, 0, len(types), len(types), len(strings))
    return struct.pack("<HBB", 0xEB9F, 1, 0) + sizes + types + strings


STRINGS = b"\0x\0"
LOOP = struct.pack("<III", 1, 4 << 24 | 1, 8) + struct.pack("<III", 1, 1, 0)  # struct x { struct x x; }
TYPEDEF_LOOP = (
    struct.pack("<III", 1, 4 << 24 | 1, 8) + struct.pack("<III", 1, 2, 0) + struct.pack("<III", 1, 8 << 24, 2)
)
HUGE_ARRAY = (
    struct.pack("<III", 1, 4 << 24 | 1, 8)
    + struct.pack("<III", 1, 2, 0)
    + struct.pack("<III", 0, 3 << 24, 0)
    + struct.pack("<III", 3, 3, 0xFFFFFFFF)
    + struct.pack("<IIII", 1, 1 << 24, 4, 32)
)


@pytest.mark.parametrize("types", [LOOP, TYPEDEF_LOOP, HUGE_ARRAY], ids=["struct", "typedef", "array"])
def test_types_that_never_end_are_refused(types: bytes) -> None:
    with pytest.raises(BtfError, match="build the package again"):
        Btf(header(types, STRINGS)).structure("x")
