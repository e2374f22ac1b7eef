"""The house of docs/design.md: which part may import which, and what every module must bring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"

# The rows of the house, from the ground up. A part imports itself and the rows below its own.
ROWS = (
    {"model"},
    {"protocol"},
    {"kernel", "driver", "policy", "contexts", "names", "lists"},
    {"store", "host"},
    {"service", "fleet", "replay", "lab"},
    {""},  # the package itself: the façade that programs import from
    {"cli", "tui", "web"},
    {"__main__"},
)
LEVEL = {part: level for level, row in enumerate(ROWS) for part in row}
LONGEST = 400

# Modules without a test file of their own, each with the reason.
UNTESTED: dict[str, str] = {
    "tidewaiter/__main__.py": "two lines; tests/acceptance starts every command through it",
}

MODULES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.glob("tidewaiter/**/*.py"))
PACKAGES = [name for name in MODULES if name.endswith("__init__.py")]


def part_of(module: str) -> str:
    """The part of the house that a dotted module name belongs to: ``model`` for ``tidewaiter.model.key``."""
    return module.split(".")[1] if "." in module else ""


def dotted(name: str) -> str:
    """The module name of a source file: ``tidewaiter.model.key`` for ``tidewaiter/model/key.py``."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted names of ours that a module imports, wherever it does: in functions and for types too.

    ``package`` is what a relative import starts from. ``from tidewaiter import model`` counts as the
    part ``model``, and ``from tidewaiter import Firewall`` as the façade.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            names = [base]
            if base == "tidewaiter":
                names = [f"{base}.{alias.name}" if alias.name in LEVEL else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "tidewaiter")


def climbing(module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports of a module that the house forbids."""
    package = module if is_package else module.rpartition(".")[0]
    own = part_of(module)
    return [
        imported
        for imported in imports(ast.parse(source), package)
        if (part := part_of(imported)) != own and LEVEL.get(part, len(ROWS)) >= LEVEL[own]
    ]


def mirror(name: str) -> Path:
    """Where the tests of a source file are: tests/model/test_key.py for tidewaiter/model/key.py."""
    path = Path(name).relative_to("tidewaiter")
    if path.stem == "__init__":
        path = path.parent / path.parent.name
    return ROOT / "tests" / path.parent / f"test_{path.stem.strip('_')}.py"


def has_code(source: str) -> bool:
    """Whether a module defines something itself; a package's ``__init__`` that only re-exports does not."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.parse(source).body
    )


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    module = dotted(name)
    assert part_of(module) in LEVEL, (
        f"{name} belongs to no part of the house: see ROWS here and docs/design.md"
    )
    found = climbing(module, (SOURCE / name).read_text(), is_package=name in PACKAGES)
    assert not found, f"{module} must not import {', '.join(found)}"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(ast.parse((SOURCE / name).read_text())), f"{name} has no docstring"


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_is_described_in_a_paragraph(name: str) -> None:
    words = (ast.get_docstring(ast.parse((SOURCE / name).read_text())) or "").split()
    assert len(words) >= 25, f"{name} needs a paragraph: what lives here, and what it may import"


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {str(Path(name).parent / "__init__.py") for name in MODULES}
    assert sorted(folders) == PACKAGES


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_test_file(name: str) -> None:
    if name in UNTESTED or (name in PACKAGES and not has_code((SOURCE / name).read_text())):
        return
    expected = mirror(name)
    assert expected.exists(), f"{name} has no {expected.relative_to(ROOT)}"


def test_exceptions_are_still_needed() -> None:
    assert all(UNTESTED.values()), "an exception needs its reason"
    assert [name for name in UNTESTED if name not in MODULES or mirror(name).exists()] == []


def test_no_source_file_is_too_long() -> None:
    files = [path for folder in ("src", "bench", "examples") for path in (ROOT / folder).rglob("*")]
    sources = [path for path in files if path.suffix in {".py", ".c", ".h"}]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tidewaiter.driver.core", "import tidewaiter.host"),
        ("tidewaiter.driver.core", "import tidewaiter.host.queue as queue"),
        ("tidewaiter.driver.core", "from tidewaiter.kernel.maps import Verdicts"),
        ("tidewaiter.driver.core", "from tidewaiter import kernel"),
        ("tidewaiter.driver.core", "from .. import kernel"),
        ("tidewaiter.driver.core", "from ..kernel import maps"),
        ("tidewaiter.driver.core", "def later():\n    from tidewaiter.host import queue"),
        ("tidewaiter.driver.core", "if TYPE_CHECKING:\n    from tidewaiter.host import queue"),
        ("tidewaiter.model.key", "from tidewaiter.protocol import info"),
        ("tidewaiter.model.key", "from tidewaiter import Firewall"),
        ("tidewaiter.service.daemon", "from tidewaiter.lab import world"),
        ("tidewaiter.service.daemon", "from tidewaiter.nowhere import thing"),
        ("tidewaiter", "from tidewaiter.cli import main"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(climbing(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tidewaiter.driver.core", "from tidewaiter.model.key import ConnectionKey"),
        ("tidewaiter.driver.core", "from tidewaiter.driver import caches"),
        ("tidewaiter.driver.core", "from . import caches"),
        ("tidewaiter.driver.core", "from .caches import PacketCache"),
        ("tidewaiter.driver.core", "import hosts, tidewaiterish"),
        ("tidewaiter.host.live", "from tidewaiter.kernel import maps"),
        ("tidewaiter.cli.run", "from tidewaiter import Firewall"),
        ("tidewaiter.__main__", "from tidewaiter.service import daemon"),
    ],
)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert climbing(module, source) == []


def test_a_relative_import_starts_from_the_package_itself() -> None:
    assert climbing("tidewaiter", "from .service import Firewall", is_package=True) == []
    assert climbing("tidewaiter.driver", "from ..host import queue", is_package=True) == ["tidewaiter.host"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tidewaiter/model/key.py", "tests/model/test_key.py"),
        ("tidewaiter/model/_table.py", "tests/model/test_table.py"),
        ("tidewaiter/cli/__init__.py", "tests/cli/test_cli.py"),
        ("tidewaiter/__main__.py", "tests/test_main.py"),
    ],
)
def test_tests_mirror_sources(name: str, expected: str) -> None:
    assert mirror(name) == ROOT / expected
