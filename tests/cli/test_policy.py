"""The command `tidewaiter policy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli.policy import policy

POLICY = """\
version = 1
default.in = "drop"
[[rule]]
verdict = "ask"
port = 443
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def test_check_sums_up(file: Path) -> None:
    result = run("check", file)
    assert result.exit_code == 0
    assert result.output == (
        f"{file}: 1 rule (0 decided in the kernel, 1 in Python); "
        "default out accept, in drop, forward accept\n"
    )


def test_check_counts_what_the_kernel_decides(file: Path) -> None:
    file.write_text(POLICY + '[[rule]]\nverdict = "drop"\n' * 299)
    assert ": 300 rules (251 decided in the kernel, 49 in Python); default" in run("check", file).output


def test_check_as_json(file: Path) -> None:
    result = run("check", "--json", file)
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "file": str(file),
        "rules": 1,
        "kernel": 0,
        "consult": 1,
        "default": {"out": "accept", "in": "drop", "forward": "accept"},
    }


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check_points_at_an_error(file: Path, options: list[str]) -> None:
    file.write_text(POLICY + "remote = ['::1', 'x']\n")
    result = run("check", *options, file)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"{file}:6:18: 'x' is not an address or a network; "
        "write it like 192.0.2.1, 10.0.0.0/8, 2001:db8::1 or fd00::/8\n"
    )


def test_check_of_a_missing_file(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{tmp_path / 'none'}:1:1: the file cannot be read")
