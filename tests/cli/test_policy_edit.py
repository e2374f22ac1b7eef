"""Changing a policy from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli.policy import policy
from tidewaiter.policy import Policy

TEXT = '# mine\nversion = 1\n\n[[rule]]\nname = "a"\nport = 443  # web\ngroup = "work"\nverdict = "drop"\n'


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(TEXT)
    return path


def names(file: Path) -> list[str]:
    return [rule.name for rule in Policy.load(file).rules]


def test_a_rule_comes_moves_and_goes(file: Path) -> None:
    assert run("add", file, "name=b", "port=[1, 2]", "not.remote=lan", "verdict=ask", "--first").output == (
        f"{file}: version 2\n"
    )
    assert names(file) == ["b", "a"]
    assert run("move", file, "b", "--after", "a", "--why", "later").exit_code == 0
    assert names(file) == ["a", "b"]
    assert run("disable", file, "a").exit_code == 0
    assert not Policy.load(file).rules[0].enabled
    assert run("enable", file, "a").exit_code == 0
    assert run("disable", "--group", file, "work").exit_code == 0
    assert Policy.load(file).groups == {"work": False}
    assert run("remove", file, "b").exit_code == 0
    assert names(file) == ["a"]
    assert "port = 443  # web" in file.read_text()
    lines = [json.loads(line) for line in run("history", "--json", file).output.splitlines()]
    assert [line["version"] for line in lines] == list(range(1, 8))
    assert lines[2]["why"] == "later"
    assert "+# mine" not in run("diff", file, "1").output
    assert "+[group.work]" in run("diff", file, "1").output
    assert run("undo", file).exit_code == 0
    assert names(file) == ["a", "b"]
    assert run("undo", file, "1").exit_code == 0
    assert file.read_text() == TEXT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "FILE", "port=70000", "verdict=drop"], "FILE:11:8: the port 70000 is too large"),
        (["remove", "FILE", "none"], "FILE: this file has no rule 'none'"),
        (["move", "FILE", "a", "--before", "none"], "FILE: this file has no rule 'none'"),
        (["undo", "FILE", "99"], "FILE has no version 99"),
        (["enable", "FILE", "none"], "FILE: this file has no rule 'none'"),
        (["disable", "--group", "FILE", "wrok"], "FILE: no rule has the group 'wrok'; did you mean work?"),
        (["enable", "--group", "FILE", "x"], "FILE: no rule has the group 'x'; give a rule group = "),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    file: Path, arguments: list[str], message: str
) -> None:
    result = run(*[str(file) if argument == "FILE" else argument for argument in arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith(message.replace("FILE", str(file)))
    assert file.read_text() == TEXT
    assert list(file.parent.glob(".*")) == []


def test_a_rule_is_changed_where_it_stands(tmp_path: Path, file: Path) -> None:
    main = tmp_path / "main.toml"
    main.write_text('version = 1\ninclude = "p.toml"\n')
    assert run("disable", main, "a").output == f"{file}: version 2\n"
    assert not Policy.load(main).rules[0].enabled
    assert main.read_text() == 'version = 1\ninclude = "p.toml"\n'


def test_a_group_is_switched_where_its_table_stands(tmp_path: Path, file: Path) -> None:
    main = tmp_path / "main.toml"
    main.write_text('version = 1\ninclude = "p.toml"\n')
    assert run("disable", "--group", main, "work").output == f"{main}: version 2\n"
    main.write_text('version = 1\ninclude = "p.toml"\n')
    file.write_text(TEXT + "\n[group.work]\n")
    assert run("disable", "--group", main, "work").output == f"{file}: version 2\n"
    assert Policy.load(main).groups == {"work": False}


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """A policy with a list in the main file and two rules in an included one, of which one uses the list."""
    main, folder = tmp_path / "main.toml", tmp_path / "policy.d"
    folder.mkdir()
    main.write_text('version = 1\ninclude = "policy.d/*.toml"\n\n[list.ads]\npath = "ads.txt"\n')
    (folder / "a.toml").write_text(
        'version = 1\n\n[[rule]]\nname = "n"\nlist = "ads"\nverdict = "drop"\n'
        '\n[[rule]]\nname = "o"\nport = 443\nverdict = "drop"\n'
    )
    return main


@pytest.mark.parametrize("name", ["n", "o"])
def test_an_included_file_may_use_what_the_main_file_says(parted: Path, name: str) -> None:
    included = parted.parent / "policy.d" / "a.toml"
    before = included.read_text()
    assert run("disable", parted, name).output == f"{included}: version 2\n"
    assert [rule.name for rule in Policy.load(parted).rules if not rule.enabled] == [name]
    assert run("enable", parted, name).exit_code == 0
    assert included.read_text() == before
    assert run("move", parted, name, "--first").exit_code == 0
    assert names(parted)[0] == name
    assert run("remove", parted, name).exit_code == 0
    assert names(parted) == [{"n": "o", "o": "n"}[name]]


def test_a_file_keeps_its_line_ends(file: Path) -> None:
    before = file.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(before)
    assert run("disable", file, "a").exit_code == 0
    assert file.read_bytes() == before + b"enabled = false\r\n"
    assert run("undo", file).exit_code == 0
    assert file.read_bytes() == before


def test_undo_takes_back_the_newest_change_of_all_files(parted: Path) -> None:
    included = parted.parent / "policy.d" / "a.toml"
    before = included.read_text()
    assert run("add", parted, "name=m", "verdict=accept").exit_code == 0
    changed = parted.read_text()
    assert run("disable", parted, "n").exit_code == 0
    assert run("undo", parted).output == f"{included}: version 3\n"
    assert included.read_text() == before
    assert parted.read_text() == changed
    assert run("undo", parted, "1").output == f"{parted}: version 3\n"
    assert names(parted) == ["n", "o"]
    included.write_text(before + "\nwrong")
    assert run("undo", parted).exit_code == 0
    assert included.read_text() == before


def test_a_file_has_one_history(file: Path) -> None:
    link = file.with_name("link.toml")
    link.symlink_to(file)
    assert run("disable", link, "a").output == f"{link}: version 2\n"
    assert run("enable", file, "a").output == f"{file}: version 3\n"
    assert link.is_symlink()
    assert run("history", link).output == run("history", file).output
    assert not file.with_name("link.toml.history").exists()
