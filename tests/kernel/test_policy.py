"""kernel/policy.h in the kernel, the classifier in Python and a plain loop over the words of the rules agree.

What a policy says is written into the maps of a kernel half that is attached nowhere; a program of the test alone
decides hundreds of connections in one run of it (BPF_PROG_TEST_RUN). A test run tries eight thousand pairs of a policy
and a connection, and `./dev fuzz` more than a million.

The kernel may ask Python only where the reference says so: where the first rule that may match, by what of it the
kernel can express, is one that the kernel cannot decide.
"""

from __future__ import annotations

import ctypes
import json
import platform
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.crowd import Crowd, smallest
from policy.homes import (
    CONNECTIONS,
    EDITS,
    PHASES,
    POLICIES,
    WORLD,
    Answered,
    Expected,
    classified,
    parse,
)
from policy.material import LISTS
from policy.oracle import Loop, Seen, Words
from tidewaiter.host.policy_maps import PolicyMaps
from tidewaiter.kernel.btf import Btf
from tidewaiter.kernel.libbpf import check, library
from tidewaiter.kernel.loader import Kernel, LoadedObject
from tidewaiter.kernel.maps import Map
from tidewaiter.kernel.objects import Mode, ObjectSpec
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Classifier, Facts, Policy
from tidewaiter.policy.connection import facts_of

pytestmark = [pytest.mark.live, pytest.mark.fuzzed]

HARNESS = Path(__file__).with_name("policy_harness.c")
KERNEL = Path(__file__).parents[2] / "src" / "tidewaiter" / "kernel"
CASES = 1024
NOBODY = NO_PROGRAM = 0xFFFFFFFF  # TW_ANY
_ARGUMENTS = struct.Struct("<QQQIIQQIIIIII16x")  # struct bpf_test_run_opts: libbpf, bpf.h
_FRAME = ctypes.create_string_buffer(bytes(12) + b"\x08\x00" + b"\x45" + bytes(49))


@dataclass(frozen=True)
class Harness(ObjectSpec):
    """The program of this test."""

    built: Path = Path()

    def path(self, mode: Mode) -> Path:
        return self.built


class InTheKernel:
    """The classifier in the kernel, with the maps of a kernel half."""

    def __init__(self, kernel: Kernel, built: Path) -> None:
        self._kernel, self._maps = kernel, PolicyMaps(kernel)
        maps = {name: one.fd for name, one in kernel.maps.items()}
        self._object = LoadedObject(Harness("policy harness", built=built), Mode.ENFORCE, maps, {})
        types = Btf.of_object(built)
        self._cases, self._answers = (
            Map(name, self._object.map_fd(name), *types.map_types(name)) for name in ("cases", "answers")
        )
        self._numbers: dict[str, int] = {}
        self._names: tuple[str, ...] = ()

    def close(self) -> None:
        self._object.close()

    def load(self, policy: Policy) -> None:
        self._maps.put(policy)
        self._names = self._maps.names()
        self._numbers = {
            key.lstrip(b"\0").decode(): int.from_bytes(number, "little")
            for key, number in self._kernel.map("programs").items()
        }

    def decide(self, those: list[Facts]) -> list[tuple[Answered, Answered]]:
        """Of each connection what is decided at its first packet, and what at connect()."""
        layout = self._cases.value
        assert layout is not None
        packed = [layout.pack(self._record(facts)) for facts in those]
        keys = [struct.pack("<I", number) for number in range(CASES)]
        self._cases.put_all(dict(zip(keys, [*packed, bytes(layout.size)], strict=False)))
        options = _ARGUMENTS.pack(_ARGUMENTS.size, ctypes.addressof(_FRAME), 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        buffer = ctypes.create_string_buffer(options, len(options))
        run = library().bpf_prog_test_run_opts
        check(run(self._object.program_fd("decide_all"), buffer), "running the test's program")
        found = []
        for answer, _ in zip(self._answers.values(), those, strict=False):
            rule, at_connect, verdict, verdict_at_connect = struct.unpack_from("<IIBB", answer)
            found.append((self._answered(rule, verdict), self._answered(at_connect, verdict_at_connect)))
        return found

    def _answered(self, bit: int, verdict: int) -> Answered:
        return Answered("" if bit == NOBODY else self._names[bit], Verdict(verdict))

    def _record(self, facts: Facts) -> dict[str, Any]:
        return {
            "owner_uid": facts.uid & NOBODY,
            "owner_program": self._numbers.get(facts.program, 0) if facts.program else NO_PROGRAM,
            "direction": facts.direction,
            "family": facts.remote.version,
            "protocol": facts.protocol,
            "local": facts.local.packed,
            "remote": facts.remote.packed,
            "local_port": facts.local_port,
            "remote_port": facts.remote_port,
        }


@pytest.fixture(scope="module")
def in_the_kernel(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InTheKernel]:
    built = tmp_path_factory.mktemp("policy") / "harness.bpf.o"
    machine = f"/usr/include/{platform.machine()}-linux-gnu"
    includes = ["-idirafter", machine, f"-I{KERNEL}"]
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-Wall", "-Werror", *includes, "-c", HARNESS, "-o", built],
        check=True,
    )
    home = InTheKernel(kernel, built)
    yield home
    home.close()


def wrong(expected: Expected, seen: Seen, answers: tuple[Answered, Answered], first: str) -> str:
    """What the kernel does against the reference, in a few words; "" if nothing. ``first`` is the rule that matches."""
    for when, found, wanted in zip(
        ("first packet", "connect"), answers, (expected.later(seen), expected.at_connect(seen)), strict=True
    ):
        if found.verdict is Verdict.UNDECIDED:
            unknown = expected.names_programs and not seen.facts("program")
            if wanted is not None and not unknown:
                return f"at {when} it asks, where it has to decide by {wanted}"
        elif found != wanted:
            return f"at {when} it decides by {found}, not {wanted or 'asking'}"
        elif found.rule != first:
            return f"at {when} it decides by {found}, and the rule that matches is {first}"
    return ""


def name_of(policy: Policy, index: int) -> str:
    return policy.rules[index].name if index < len(policy.rules) else "default"


def explained(home: InTheKernel, words: Words, one: Words, how: str) -> str:
    """The same with as few rules as still differ."""

    def differs(fewer: Words) -> str:
        policy, seen = parse(fewer), Seen(one, LISTS)
        home.load(policy)
        answers = home.decide([facts_of(one)])[0]
        return wrong(
            Expected(fewer, policy), seen, answers, name_of(policy, Loop.over(fewer).first(seen).place)
        )

    if not differs(words):
        return f"{how}; written once more it agrees: it is the change from the policy before that went wrong"
    small = smallest(words, lambda fewer: bool(differs(fewer)))
    return f"{json.dumps(small, default=str, indent=1)}\n{json.dumps(one)}\n{differs(small)}"


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=POLICIES, deadline=None, phases=PHASES)
def test_kernel_python_and_a_plain_loop_agree(in_the_kernel: InTheKernel, seed: int) -> None:
    """4 policies, each with 3 changes, and 500 connections: 8,000 pairs, decided at connect() and later.

    `./dev fuzz`: 1,200,000.
    """
    crowd = Crowd(seed)
    those = []
    for _ in range(CONNECTIONS):
        one = crowd.connection()
        those.append((one, Seen(one, LISTS), facts_of(one)))
    classifier = Classifier(parse(crowd.words), WORLD)
    for edit in range(EDITS + 1):
        if edit:
            crowd.edit()
        policy, loop = parse(crowd.words), Loop.over(crowd.words)
        classifier.update(policy)
        in_the_kernel.load(policy)
        expected = Expected(crowd.words, policy)
        answered = in_the_kernel.decide([facts for _, _, facts in those])
        assert len(answered) == len(those)
        for (one, seen, facts), answers in zip(those, answered, strict=True):
            first = loop.first(seen)
            assert classified(policy, classifier, facts) == first, one
            if how := wrong(expected, seen, answers, name_of(policy, first.place)):
                pytest.fail(explained(in_the_kernel, crowd.words, one, how))


def test_what_the_kernel_is_given_reaches_everything(in_the_kernel: InTheKernel) -> None:
    """It decides and asks in every block of rules and by the defaults."""
    seen: Counter[tuple[str, int, bool]] = Counter()
    for seed, size in enumerate([600, 600, 600, 600, *[5] * 12]):
        crowd = Crowd(seed, size=size, loose=0)
        policy = parse(crowd.words)
        places = {rule.name: place for place, rule in enumerate(policy.rules)}
        in_the_kernel.load(policy)
        for answers in in_the_kernel.decide([facts_of(crowd.connection()) for _ in range(size // 2 + 20)]):
            for when, answer in zip(("later", "connect"), answers, strict=True):
                if answer.rule:
                    block = -1 if answer.rule == "default" else places[answer.rule] // 256
                    seen[when, block, answer.verdict is Verdict.UNDECIDED] += 1
    for when in ("later", "connect"):
        for block in (-1, 0, 1, 2):
            assert seen[when, block, True], f"it never asks {when} in block {block}"
            assert seen[when, block, False], f"it never decides {when} in block {block}"
