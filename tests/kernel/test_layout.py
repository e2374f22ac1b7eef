"""kernel/types.h, as a C compiler lays it out, against what Python reads from the objects' BTF.

This is the proof that what the kernel half and Python share is current: a stale object fails here.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tidewaiter.host import admission, counters, policy_maps, queue
from tidewaiter.kernel import objects, records
from tidewaiter.kernel.btf import Btf, Member
from tidewaiter.kernel.objects import Mode
from tidewaiter.model.key import Direction
from tidewaiter.model.verdict import Verdict

HEADER = objects.DIRECTORY / "types.h"
TEXT = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
STRUCTURES = {
    found["name"]: re.findall(r"(?:struct )?(\w+) (\w+)(?:\[(\w+)\])?;", found["body"])
    for found in re.finditer(r"^struct (?P<name>\w+) \{\n(?P<body>.*?)^\};", TEXT, re.DOTALL | re.MULTILINE)
}
NUMBERS = dict(re.findall(r"(TW_\w+)(?: =)? (\d+)\b", TEXT))
CONSTANTS = [
    *re.findall(r"\b(TW_\w+) = ", TEXT),
    *re.findall(r"^#define (TW_\w+) \S", TEXT, re.MULTILINE),
]


class Place(NamedTuple):
    """Where a field is and how many bytes it has."""

    offset: int
    size: int


class Compiled(NamedTuple):
    """What the compiler says: sizes of structures, their fields, values of constants."""

    sizes: dict[str, int]
    fields: dict[str, dict[str, Place]]
    constants: dict[str, int]


def fields_of(structure: str, path: str = "", name: str = "") -> list[tuple[str, str]]:
    """Every field that holds no further structure: how C reaches it, and what Python calls it."""
    found: list[tuple[str, str]] = []
    for kind, field, count in STRUCTURES[structure]:
        if kind not in STRUCTURES:
            found.append((path + field, name + field))
        elif count:
            for index in range(int(NUMBERS.get(count, count))):
                found += fields_of(kind, f"{path}{field}[{index}].", f"{name}{field}{index}_")
        else:
            found += fields_of(kind, f"{path}{field}.", f"{name}{field}_")
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A program that prints what the compiler makes of the header, and its answers."""
    folder = tmp_path_factory.mktemp("layout")
    lines = [f'printf("size {name} %zu\\n", sizeof(struct {name}));' for name in STRUCTURES]
    for structure in STRUCTURES:
        for path, name in fields_of(structure):
            offset = f"offsetof(struct {structure}, {path}), sizeof(((struct {structure} *)0)->{path})"
            lines.append(f'printf("field {structure} {name} %zu %zu\\n", {offset});')
    lines += [f'printf("constant {name} %llu\\n", (unsigned long long){name});' for name in CONSTANTS]
    source = folder / "layout.c"
    includes = "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
    source.write_text(f'{includes}#include "{HEADER}"\nint main(void) {{\n{chr(10).join(lines)}\n}}\n')
    program = folder / "layout"
    subprocess.run(["cc", "-std=gnu11", "-Wall", "-Werror", source, "-o", program], check=True)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    answer = Compiled({}, {name: {} for name in STRUCTURES}, {})
    for line in output.splitlines():
        match line.split():
            case ["size", name, size]:
                answer.sizes[name] = int(size)
            case ["field", structure, name, offset, size]:
                answer.fields[structure][name] = Place(int(offset), int(size))
            case ["constant", name, value]:
                answer.constants[name] = int(value)
    return answer


def place(member: Member) -> Place:
    return Place(member.offset, struct.calcsize("<" + member.format))


def test_the_header_was_understood(compiled: Compiled) -> None:
    assert len(STRUCTURES) >= 14
    assert {"tw_owner", "tw_connection", "tw_event", "tw_process", "tw_config"} <= STRUCTURES.keys()
    assert compiled.fields["tw_event"].keys() >= {"time", "kind", "connection_owner_started"}
    assert compiled.constants["TW_PERMANENT_DROP"] == 7


@pytest.mark.parametrize("name", STRUCTURES)
def test_python_sees_every_structure_as_the_compiler_does(compiled: Compiled, name: str) -> None:
    layout = objects.types().structure(name)
    assert layout.size == compiled.sizes[name]
    assert {member.name: place(member) for member in layout.members} == compiled.fields[name]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("spec", objects.ALL, ids=lambda spec: spec.layer)
def test_every_object_was_built_from_this_header(
    compiled: Compiled, spec: objects.ObjectSpec, mode: Mode
) -> None:
    types = Btf.of_object(spec.path(mode))
    layout = types.structure("tw_connection")
    assert layout.size == compiled.sizes["tw_connection"]
    assert {member.name: place(member) for member in layout.members} == compiled.fields["tw_connection"]
    assert types.map_types("pending") == objects.maps().map_types("pending")


def named(constants: dict[str, int], prefix: str, names: list[str]) -> dict[str, int]:
    return {name: constants[prefix + name] for name in names}


def test_the_numbers_of_python_are_those_of_the_header(compiled: Compiled) -> None:
    constants = compiled.constants
    assert named(constants, "TW_", [item.name for item in Verdict]) == Verdict.__members__
    assert named(constants, "TW_", [item.name for item in Direction]) == Direction.__members__
    assert named(constants, "TW_", [item.name or "" for item in records.Flag]) == records.Flag.__members__
    assert named(constants, "TW_HOME_", [item.name for item in records.Home]) == records.Home.__members__
    kinds = records.EventKind
    assert named(constants, "TW_EVENT_", [item.name for item in kinds]) == kinds.__members__
    tiers = {f"TIER_{tier.name}": number for number, tier in records.TIERS.items()}
    assert named(constants, "TW_", list(tiers)) == tiers


def test_no_number_of_the_header_is_unknown_to_python(compiled: Compiled) -> None:
    for prefix, known in (("TW_HOME_", records.Home), ("TW_EVENT_", records.EventKind)):
        names = [name.removeprefix(prefix) for name in CONSTANTS if name.startswith(prefix)]
        assert sorted(names) == sorted(known.__members__)
    counted = {name: value for name, value in compiled.constants.items() if name.startswith("TW_COUNT_")}
    assert sorted(counted.values()) == list(range(len(counters.NAMES)))
    assert len(counters.NAMES) <= compiled.constants["TW_COUNTERS"]


def test_the_constants_of_python_are_those_of_the_header(compiled: Compiled) -> None:
    constants = compiled.constants
    assert (
        constants["TW_RULES"] == policy_maps.CAPACITY == 64 * constants["TW_WORDS"] * constants["TW_BLOCKS"]
    )
    assert 64 * constants["TW_WORDS"] == policy_maps._BLOCK_BITS
    assert constants["TW_ANY"] == records.NO_RULE
    assert constants["TW_WINDOW"] == admission.WINDOW
    assert constants["TW_QUEUE"] == queue.LENGTH
    places = [2 * constants["TW_WAY_IN"], 2 * constants["TW_WAY_ANY"]]
    assert places == [admission._IN_ASKED, admission._ASKED]
    assert constants["TW_SCOPE_NAMESPACE"] == records.SCOPE_NAMESPACE
    assert constants["TW_PATH"] == policy_maps._PATH
    assert constants["TW_FAMILY_6"] == policy_maps._FAMILY_6
    assert constants["TW_RANGE_FIXED"] == policy_maps._FIXED_BITS
    for name in ("PROGRAM", "USER", "REMOTE", "LOCAL", "PORT"):
        assert constants[f"TW_DIMENSION_{name}"] == getattr(policy_maps, name)


def test_a_record_has_the_fields_of_the_structure_in_order() -> None:
    names = [member.name for member in records.CONNECTION.members]
    assert list(records.Record._fields) == [name.removeprefix("owner_") for name in names]


def test_a_name_that_is_no_field_of_the_header_is_refused(compiled: Compiled, tmp_path: Path) -> None:
    """The harness itself: a field that C does not know must not pass silently."""
    source = tmp_path / "wrong.c"
    source.write_text(
        f'#include <linux/types.h>\n#include "{HEADER}"\nint x = sizeof(((struct tw_owner *)0)->nothing);\n'
    )
    done = subprocess.run(["cc", "-c", source, "-o", tmp_path / "wrong.o"], capture_output=True, check=False)
    assert done.returncode != 0
