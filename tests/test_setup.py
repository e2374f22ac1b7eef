"""setup.py: what a wheel, a source distribution and an editable install contain, and its errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tidewaiter.kernel.btf import Btf

ROOT = Path(__file__).parent.parent

SOURCES = {
    "README.md": "# A sample\n",
    "src/tidewaiter/__init__.py": "",
    "src/tidewaiter/kernel/__init__.py": "",
    "src/tidewaiter/kernel/shared.h": "#define ANSWER 1\n",
    "src/tidewaiter/kernel/plain.bpf.c": '#include "shared.h"\nint answer(void) { return ANSWER; }\n',
    "src/tidewaiter/kernel/hook.bpf.c": (
        "/* build: observe -DOBSERVE */\n/* build: enforce -DENFORCE=1 -DMORE */\n"
        "#ifdef OBSERVE\nint only_observe(void) { return 1; }\n#endif\n"
        "#if defined(ENFORCE) && defined(MORE)\nint only_enforce(void) { return 2; }\n#endif\n"
    ),
    "src/tidewaiter/kernel/native/module.h": '#define NAME "_native"\n',
    "src/tidewaiter/kernel/native/module.c": (
        '#include <Python.h>\n#include "module.h"\n#include "shared.h"\n'
        "static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = NAME, .m_size = 0};\n"
        "PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }\n"
    ),
    "src/tidewaiter/lists/__init__.py": "",
    "src/tidewaiter/lists/native/native.h": "#include <Python.h>\n",
    "src/tidewaiter/lists/native/module.c": (
        '#include "native.h"\n'
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = 0};\n'
        "PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }\n"
    ),
}
OBJECTS = {"plain.bpf.o", "hook.observe.bpf.o", "hook.enforce.bpf.o"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of the smallest sources, with this project's setup.py and pyproject.toml."""
    root = tmp_path / "project"
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    for folder in ("LICENSES", "systemd"):
        shutil.copytree(ROOT / folder, root / folder)
    return root


def build(project: Path, kind: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Builds a ``wheel``, ``sdist`` or ``editable`` into ``project``/dist as an installer would."""
    (project / "dist").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{kind}('dist')"],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def built_objects(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*.bpf.o")}


def test_a_wheel_carries_the_objects_and_serves_every_later_python(project: Path) -> None:
    result = build(project, "wheel")
    assert result.returncode == 0, result.stderr
    (wheel,) = (project / "dist").glob("*.whl")
    assert "-cp311-abi3-linux_" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {
        name.removeprefix("tidewaiter/kernel/") for name in names if name.startswith("tidewaiter/kernel/")
    }
    assert inside == {"__init__.py", "_native.abi3.so", *OBJECTS}
    assert "tidewaiter/lists/_native.abi3.so" in names
    units = {name.partition(".data/data/share/tidewaiter/systemd/")[2] for name in names} - {""}
    assert units == {path.name for path in (ROOT / "systemd").iterdir()}
    licenses = {name.partition("/licenses/")[2] for name in names} - {""}
    assert licenses == {"LICENSE", "LICENSES/GPL-2.0-only.txt", "LICENSES/BSD-2-Clause.txt"}
    assert built_objects(project / "src/tidewaiter/kernel") == set()


def test_each_variant_is_compiled_with_its_own_flags(project: Path) -> None:
    assert build(project, "wheel").returncode == 0
    (wheel,) = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        observe = archive.read("tidewaiter/kernel/hook.observe.bpf.o")
        enforce = archive.read("tidewaiter/kernel/hook.enforce.bpf.o")
    assert [b"only_observe" in observe, b"only_enforce" in observe] == [True, False]
    assert [b"only_observe" in enforce, b"only_enforce" in enforce] == [False, True]
    assert observe[:5] == b"\x7fELF\x02"
    assert int.from_bytes(observe[18:20], sys.byteorder) == 247  # EM_BPF, elf.h


def test_a_source_distribution_holds_every_source(project: Path) -> None:
    assert build(project, "sdist").returncode == 0
    (archive,) = (project / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert names >= {*SOURCES, "setup.py", "pyproject.toml", "LICENSE"}


def test_an_editable_install_has_everything_beside_the_sources(project: Path) -> None:
    kernel = project / "src/tidewaiter/kernel"
    (kernel / "gone.bpf.o").write_text("left by a source that is no more")
    result = build(project, "editable")
    assert result.returncode == 0, result.stderr
    assert built_objects(kernel) == OBJECTS
    assert (kernel / "_native.abi3.so").exists()
    assert (project / "src/tidewaiter/lists/_native.abi3.so").exists()


def test_without_bpf_any_compiler_tells_the_types(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = project / "src/tidewaiter/kernel"
    (kernel / "types.c").write_text("struct answer { int number; } answer;\n")
    assert build(project, "editable").returncode == 0
    assert built_objects(kernel) == OBJECTS
    by_clang = Btf.of_object(kernel / "types.o").structure("answer")
    for path in kernel.glob("*.o"):
        path.unlink()
    monkeypatch.setenv("TIDEWAITER_WITHOUT_BPF", "1")
    result = build(project, "editable")
    assert result.returncode == 0, result.stderr
    assert built_objects(kernel) == set()
    assert Btf.of_object(kernel / "types.o").structure("answer") == by_clang


def test_a_changed_header_reaches_the_object(project: Path) -> None:
    kernel = project / "src/tidewaiter/kernel"
    assert build(project, "editable").returncode == 0
    before = (kernel / "plain.bpf.o").read_bytes()
    (kernel / "shared.h").write_text("#define ANSWER 2\n")
    assert build(project, "editable").returncode == 0
    assert (kernel / "plain.bpf.o").read_bytes() != before


def test_a_missing_clang_is_one_sentence(project: Path, tmp_path: Path) -> None:
    result = build(project, "editable", path=str(tmp_path))
    assert result.returncode != 0
    assert "clang is missing, and the eBPF programs need it: apt-get install clang" in result.stderr


def test_a_source_that_does_not_compile_is_named(project: Path) -> None:
    (project / "src/tidewaiter/kernel/plain.bpf.c").write_text("int broken(void) { return }\n")
    result = build(project, "wheel")
    assert result.returncode != 0
    assert re.search(r"clang could not compile src/tidewaiter/kernel/plain.bpf.c", result.stderr)


def test_a_package_without_c_sources_still_builds(project: Path) -> None:
    for path in (project / "src/tidewaiter").rglob("*.[ch]"):
        path.unlink()
    assert build(project, "wheel").returncode == 0
    assert [path.name for path in (project / "dist").glob("*.whl")] == ["tidewaiter-0.1.0-py3-none-any.whl"]
