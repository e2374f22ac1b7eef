"""What the compiled objects say, before anything is loaded: which there are, and how each is attached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from tidewaiter.kernel.btf import Btf

DIRECTORY = Path(__file__).parent


class Mode(StrEnum):
    """Observe attaches programs that cannot refuse anything, and holds nothing. Enforce does all."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """An object file: ``layer`` names its source, ``variants`` whether it differs by mode."""

    layer: str
    variants: bool = False

    def path(self, mode: Mode) -> Path:
        """The compiled object for a mode."""
        return DIRECTORY / (f"{self.layer}.{mode}.bpf.o" if self.variants else f"{self.layer}.bpf.o")


CGROUP_OBJECTS = (
    ObjectSpec("bind"),
    ObjectSpec("stream"),
    ObjectSpec("packet", variants=True),
    ObjectSpec("datagram", variants=True),
    ObjectSpec("connect", variants=True),
)
"""Attached to the scope's cgroup, in this order: the gate stands before the first connection is decided."""

HOLD = ObjectSpec("hold")
REDIRECT = ObjectSpec("redirect")
TOTALS = ObjectSpec("totals")
IDENTITY = ObjectSpec("identity")
FRAMES = ObjectSpec("frames")
ALL = (*CGROUP_OBJECTS, HOLD, REDIRECT, TOTALS, IDENTITY, FRAMES)


def types() -> Btf:
    """The types that the kernel half and Python share: those of types.h, from an object without a program (types.c)."""
    return Btf.of_object(DIRECTORY / "types.o")


def maps() -> Btf:
    """The types of the maps. Any object that uses them knows them all."""
    return Btf.of_object(CGROUP_OBJECTS[-1].path(Mode.ENFORCE))


def build_digest() -> str:
    """Sixteen hexadecimal digits that change whenever any object does."""
    digest = sha256()
    for spec in ALL:
        for mode in Mode:
            digest.update(spec.path(mode).read_bytes())
    return digest.hexdigest()[:16]
