"""Builds the parts of Tidewaiter that are written in C; everything else is in pyproject.toml.

1. The eBPF objects. Each ``src/tidewaiter/kernel/X.bpf.c`` becomes ``X.bpf.o`` in the package. A source
   that is needed in several variants names them, one line each, and becomes one object for each line::

       /* build: observe -DOBSERVE */        -> X.observe.bpf.o
       /* build: enforce -DENFORCE */        -> X.enforce.bpf.o

   Objects do not depend on the machine's kernel (CO-RE), so that a wheel carries them ready made.
   ``types.c`` becomes ``types.o``, from which Python reads the layouts of what both share. With
   TIDEWAITER_WITHOUT_BPF in the environment it is the only one, and any C compiler that writes BTF makes it: captures
   are replayed and policies read without the kernel half.
2. The extensions: ``tidewaiter.X._native`` from ``src/tidewaiter/X/native/*.c``, against the limited API of
   Python 3.11: one wheel serves every later version.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.errors import CompileError, PlatformError

PACKAGE = "tidewaiter/kernel"
SOURCE = Path("src", PACKAGE)

# platform.machine() to the name in __TARGET_ARCH_x of libbpf's bpf_tracing.h.
TARGETS = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "loongarch64": "loongarch",
}
VARIANT = re.compile(r"^/\* build: (?P<name>[a-z0-9_]+)(?P<flags>(?: -D\w+(?:=\w+)?)*) \*/$", re.MULTILINE)


def paths(pattern: str) -> list[str]:
    """The files of the kernel package that match, in a stable order."""
    return sorted(str(path) for path in SOURCE.glob(pattern))


def objects(source: Path) -> dict[str, list[str]]:
    """The objects to build from one eBPF source: file name to extra compiler arguments."""
    stem = source.name.removesuffix(".bpf.c")
    variants = VARIANT.finditer(source.read_text())
    named = {f"{stem}.{found['name']}.bpf.o": found["flags"].split() for found in variants}
    return named or {f"{stem}.bpf.o": []}


def _without_bpf() -> bool:
    return bool(os.environ.get("TIDEWAITER_WITHOUT_BPF"))


class BuildBPF(Command):
    """Compiles the eBPF sources with clang, into the wheel or, for an editable install, beside them."""

    description = "build the eBPF objects"
    user_options: ClassVar[list[tuple[str, str, str]]] = []
    editable_mode: bool = False

    def initialize_options(self) -> None:
        """Nothing to set. Part of the protocol of setuptools commands."""

    def finalize_options(self) -> None:
        """Nothing to derive. Part of the protocol of setuptools commands."""

    def _outputs(self) -> dict[Path, tuple[Path, list[str]]]:
        built = Path(self.get_finalized_command("build").build_lib, PACKAGE)
        folder = SOURCE if self.editable_mode else built
        outputs: dict[Path, tuple[Path, list[str]]] = {}
        for source in map(Path, paths("types.c")):
            outputs[folder / f"{source.stem}.o"] = source, []
        for source in map(Path, [] if _without_bpf() else paths("*.bpf.c")):
            outputs |= {folder / name: (source, flags) for name, flags in objects(source).items()}
        return outputs

    def run(self) -> None:
        """Compiles each object. Raises PlatformError without clang or on an unknown machine."""
        outputs = self._outputs()
        if not outputs:
            return
        if not _without_bpf() and shutil.which("clang") is None:
            raise PlatformError("clang is missing, and the eBPF programs need it: apt-get install clang")
        machine = platform.machine()
        if machine not in TARGETS:
            raise PlatformError(f"eBPF programs are not built on {machine!r}, only on {', '.join(TARGETS)}")
        directory = next(iter(outputs)).parent
        directory.mkdir(parents=True, exist_ok=True)
        for stale in set(directory.glob("*.bpf.o")) - set(outputs):
            stale.unlink()
        for output, (source, flags) in outputs.items():
            self._compile(source, output, [f"-D__TARGET_ARCH_{TARGETS[machine]}", *flags])

    def _compile(self, source: Path, output: Path, flags: list[str]) -> None:
        command = ["clang", "-O2", "-g", "-Wall", "-target", "bpf", *flags, "-I", str(SOURCE)]
        if _without_bpf():
            command = ["cc", "-gbtf", "-I", str(SOURCE)]
        # Debian keeps the kernel's asm/ headers in a directory that only the native target searches.
        command += ["-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
        command += ["-c", str(source), "-o", str(output)]
        print(" ".join(command), flush=True)
        if subprocess.run(command, check=False).returncode != 0:
            raise CompileError(f"{command[0]} could not compile {source}: its messages are above")

    def get_source_files(self) -> list[str]:
        """What a source distribution must contain. Part of the protocol of setuptools commands."""
        return [*paths("*.bpf.c"), *paths("types.c"), *paths("*.h"), *paths("native/*.h")]

    def get_outputs(self) -> list[str]:
        """The files that ``run`` makes. Part of the protocol of setuptools commands."""
        return [str(path) for path in self._outputs()]

    def get_output_mapping(self) -> dict[str, str]:
        """Empty: an object has several sources. Part of the protocol of setuptools commands."""
        return {}


build.sub_commands = [("build_bpf", None), *build.sub_commands]


def extension(folder: Path) -> Extension:
    """The native module of the package that ``folder`` is in."""
    return Extension(
        f"tidewaiter.{folder.parent.name}._native",
        sources=sorted(map(str, folder.glob("*.c"))),
        depends=[*paths("*.h"), *map(str, folder.glob("*.h"))],
        include_dirs=[str(folder.parent)],
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
        extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
        py_limited_api=True,
    )


native = [extension(folder) for folder in sorted(SOURCE.parent.glob("*/native")) if any(folder.glob("*.c"))]

setup(
    cmdclass={"build_bpf": BuildBPF},
    ext_modules=native,
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if native else {},
)
