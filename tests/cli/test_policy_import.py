"""Policies of other firewalls, and ours in one piece, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from tidewaiter.cli.policy import policy
from tidewaiter.policy import Policy

RULE = {"name": "a", "action": "allow", "operator": {"type": "simple", "operand": "dest.port", "data": "443"}}


def run(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], input=text)


def test_opensnitch(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RULE))
    (tmp_path / "notes.txt").write_text("no rule")
    result = run("import", "opensnitch", tmp_path)
    assert result.exit_code == 0
    assert result.stderr == "a.json: rule 1 'a', allows unless refused\n1 of theirs carried over, 0 not\n"
    assert Policy.parse(result.stdout).rules[0].name == "a"
    (tmp_path / "b.json").write_text("{")
    target = tmp_path / "p.toml"
    result = run("import", "opensnitch", tmp_path, "-o", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "b.json: not carried over: it is not JSON" in result.stderr
    assert len(Policy.load(target).rules) == 1
    assert run("import", "opensnitch", tmp_path / "none").exit_code == 1


def test_portmaster(tmp_path: Path) -> None:
    file = tmp_path / "endpoints"
    file.write_text("+ LAN\n- L:TRAC\n")
    result = run("import", "portmaster", file)
    assert result.exit_code == 1
    assert f"{file}:2: not carried over: say by --lists" in result.stderr
    result = run("import", "portmaster", "-", "--lists", "/lists", text=file.read_text())
    assert result.exit_code == 0
    assert [rule.name for rule in Policy.parse(result.stdout).rules] == ["+ LAN", "- L:TRAC"]


def test_export(tmp_path: Path) -> None:
    main, more = tmp_path / "p.toml", tmp_path / "more.toml"
    main.write_text('version = 1\ninclude = "more.toml"\n[[rule]]\nname = "a"\nverdict = "drop"\n')
    more.write_text('version = 1\n[[rule]]\nname = "b"\nuntil = 2030-01-01T00:00:00Z\nverdict = "ask"\n')
    assert Policy.parse(run("export", main).output).rules == Policy.load(main).rules
    assert [rule["name"] for rule in json.loads(run("export", "--json", main).output)["rule"]] == ["a", "b"]
    more.write_text("x")
    assert run("export", main).exit_code == 1
