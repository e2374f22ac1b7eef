"""./dev and .ci/run, with a recorded stand-in for the environment, and the gate of the live tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ("run", "test", "setup", "fuzz", "bench", "lint", "help")

# Stands in for .venv/bin/python and .venv/bin/tidewaiter: notes how it was called. `-c` and `-V` are
# ./dev looking whether the environment is whole, and are not noted. FAIL names an argument that fails.
RECORDER = """#!/bin/bash
case $1 in -c) exit 0 ;; -V) echo Python 3.12.0; exit 0 ;; esac
echo "${TIDEWAITER_FUZZ:+$TIDEWAITER_FUZZ times }${0##*/} $*" >>"$CALLS"
for argument; do [ "$argument" != "${FAIL:-}" ] || exit 1; done
"""

Dev = Callable[..., subprocess.CompletedProcess[str]]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with ./dev, a source, and a recorded environment."""
    for name in ("dev", ".ci/run", "setup.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    kernel = tmp_path / "src/tidewaiter/kernel"
    kernel.mkdir(parents=True)
    (kernel / "shared.h").write_text("#define ONE 1\n")
    (kernel / "owner.bpf.o").write_text("")
    program(tmp_path / ".venv/bin/python", RECORDER)
    program(tmp_path / ".venv/bin/tidewaiter", RECORDER)
    # A user without privileges, so that nothing of this machine is ever changed.
    program(tmp_path / "bin/id", "#!/bin/sh\necho 1000\n")
    program(tmp_path / "bin/sudo", "#!/bin/sh\nexit 1\n")
    return tmp_path


@pytest.fixture
def dev(checkout: Path) -> Dev:
    """Runs ./dev of that checkout: ``dev("test", "-k", "x", PATH=…)``."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{checkout}/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHON": sys.executable,
            "CALLS": str(checkout / "calls"),
            **changes,
        }
        command = [changes.get("SCRIPT", "./dev"), *arguments]
        return subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def calls(checkout: Path) -> list[str]:
    """How the recorded environment was called since the last look."""
    file = checkout / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
def test_help_lists_every_command(dev: Dev, arguments: tuple[str, ...]) -> None:
    result = dev(*arguments)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if re.match("  [a-z]", line)]
    assert tuple(listed) == COMMANDS


def test_an_unknown_command_is_one_sentence(dev: Dev) -> None:
    result = dev("tset")
    assert result.returncode == 2
    assert result.stderr == "dev: there is no command 'tset'; ./dev help lists them.\n"


def test_an_old_python_is_named_with_the_remedy(dev: Dev, checkout: Path) -> None:
    old = checkout / "bin/python3.9"
    program(old, '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\n[ "$1" = -V ]\n')
    result = dev("setup", PYTHON=str(old))
    assert result.returncode == 2
    assert f"Python 3.11 or newer is needed and {old} is Python 3.9.2" in result.stderr
    assert "PYTHON=/path/to/python3.12 ./dev setup" in result.stderr


def test_what_only_root_can_install_is_named(dev: Dev, checkout: Path) -> None:
    for name in ("bash", "dirname", "readlink", "mkdir"):
        (checkout / "bin" / name).symlink_to(str(shutil.which(name)))
    result = dev("setup", PATH=f"{checkout}/bin")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "only root can install it: apt-get install clang gcc" in result.stderr
    assert calls(checkout) == []


def test_without_clang_and_without_root_a_capture_is_replayed(dev: Dev, checkout: Path) -> None:
    hide = checkout / "without-clang"
    hide.mkdir()
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        for found in filter(Path.is_file, Path(folder).iterdir()):
            link = hide / found.name
            if found.name != "clang" and not link.is_symlink():
                link.symlink_to(found)
    path = f"{checkout}/bin:{hide}"
    result = dev("run", PATH=path)
    assert "going on without clang" in result.stderr
    build, run = calls(checkout)
    assert build.endswith(".[lab]")
    assert run == "tidewaiter run --mode observe"
    assert dev("run").returncode == 0, "clang is there now"
    assert calls(checkout)[0] == build, "so the programs are built"
    assert dev("setup", PATH=path).returncode == 2, "tests need them"


def test_a_second_setup_installs_nothing(dev: Dev, checkout: Path) -> None:
    first = dev("setup")
    assert first.returncode == 0, first.stderr
    assert calls(checkout) == ["python -m pip install --no-build-isolation --editable .[lab,dev]"]
    assert "ready" in dev("setup").stderr
    assert calls(checkout) == []


@pytest.mark.parametrize("name", ["src/tidewaiter/kernel/shared.h", "setup.py", "pyproject.toml"])
def test_a_changed_source_is_built_again(dev: Dev, checkout: Path, name: str) -> None:
    dev("setup")
    calls(checkout)
    (checkout / name).write_text((checkout / name).read_text() + "\n")
    dev("setup")
    assert len(calls(checkout)) == 1


def test_a_deleted_object_is_built_again(dev: Dev, checkout: Path) -> None:
    dev("setup")
    calls(checkout)
    (checkout / "src/tidewaiter/kernel/owner.bpf.o").unlink()
    dev("setup")
    assert len(calls(checkout)) == 1


def test_a_failed_build_is_tried_again(dev: Dev, checkout: Path) -> None:
    for _ in range(2):
        failed = dev("setup", FAIL="pip")
        assert failed.returncode == 2
        assert "dev: this failed: .venv/bin/python -m pip install" in failed.stderr
        assert len(calls(checkout)) == 1


def test_run_needs_less_than_the_tests_and_takes_nothing_away(dev: Dev, checkout: Path) -> None:
    install = "python -m pip install --no-build-isolation --editable"
    dev("run", "--json")
    assert calls(checkout) == [f"{install} .[lab]", "tidewaiter run --mode observe --json"]
    dev("test")
    assert calls(checkout) == [f"{install} .[lab,dev]", "python -m pytest"]
    dev("run")
    assert calls(checkout) == ["tidewaiter run --mode observe"]
    (checkout / "src/tidewaiter/kernel/shared.h").write_text("#define ONE 2\n")
    dev("run")
    assert calls(checkout) == [f"{install} .[lab,dev]", "tidewaiter run --mode observe"]


def test_arguments_and_status_of_pytest_are_passed_on(dev: Dev, checkout: Path) -> None:
    dev("setup")
    calls(checkout)
    assert dev("test", "-k", "a b", FAIL="-k").returncode == 1
    assert calls(checkout) == ["python -m pytest -k a b"]


def test_fuzz_tries_many_examples(dev: Dev, checkout: Path) -> None:
    dev("setup")
    calls(checkout)
    run = "times python -m pytest -m hypothesis and (fuzzed or not live) --timeout 0"
    assert dev("fuzz", "-k", "core").returncode == 0
    assert calls(checkout) == [f"50 {run} -k core"]
    assert dev("fuzz", "--minutes", "1", "-x", FAIL="-x").returncode == 1
    assert calls(checkout) == [f"5 {run} -x"], "it ends with the first failure"
    refused = dev("fuzz", "--minutes", "soon")
    assert (refused.returncode, calls(checkout)) == (2, [])
    assert refused.stderr == "dev: --minutes takes a number of minutes, as in ./dev fuzz --minutes 30.\n"


@pytest.mark.parametrize("failing", ["check", "format", "mypy"])
def test_lint_runs_everything_and_fails_if_one_does(dev: Dev, checkout: Path, failing: str) -> None:
    dev("setup")
    calls(checkout)
    assert dev("lint").returncode == 0
    expected = ["python -m ruff check .", "python -m ruff format --check .", "python -m mypy"]
    assert calls(checkout) == expected
    assert dev("lint", FAIL=failing).returncode == 1
    assert calls(checkout) == expected


def test_ci_stops_at_the_first_failure(dev: Dev, checkout: Path) -> None:
    dev("setup")
    calls(checkout)
    assert dev(SCRIPT=".ci/run").returncode == 0
    assert calls(checkout)[-1] == "python -m pytest"
    assert dev(SCRIPT=".ci/run", FAIL="mypy").returncode == 1
    assert calls(checkout)[-1] == "python -m mypy"


def test_bench_says_that_it_needs_root(dev: Dev) -> None:
    result = dev("bench")
    assert result.returncode == 2
    assert result.stderr == "dev: benchmarks need root for their network namespaces: run sudo ./dev bench.\n"


LIVE = "import pytest\n@pytest.mark.live\ndef test_live(): pass\ndef test_other(): pass\n"


def without_privileges(directory: Path, demand: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest over one live and one other test, by somebody without capabilities."""
    shutil.copy(ROOT / "tests/conftest.py", directory)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = live\n")
    (directory / "test_sample.py").write_text(LIVE)
    lower = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*lower, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(directory)],
        env={**os.environ, "TIDEWAITER_DEMAND": demand},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_live_tests_are_left_out_and_listed_without_privileges(tmp_path: Path) -> None:
    result = without_privileges(tmp_path, demand="0")
    assert result.returncode == 0, result.stdout
    assert "1 passed, 1 skipped" in result.stdout
    assert "test_sample.py: 1 test: needs " in result.stdout


def test_live_tests_fail_without_privileges_where_everything_is_demanded(tmp_path: Path) -> None:
    result = without_privileges(tmp_path, demand="1")
    assert result.returncode == 1, result.stdout
    assert "1 passed, 1 error" in result.stdout
    assert "a live test cannot run here: it needs " in result.stdout


@pytest.mark.live
def test_live_tests_do_run_where_they_can() -> None:
    assert Path("/sys/kernel/btf/vmlinux").exists()
    assert os.geteuid() == 0
