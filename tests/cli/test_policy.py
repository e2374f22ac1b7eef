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
    assert ": 300 rules (299 decided in the kernel, 1 in Python); default" in run("check", file).output


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
def test_check_warns_of_what_is_not_there(file: Path, options: list[str]) -> None:
    file.write_text(POLICY + '[list.ads]\npath = "ads.txt"\n')
    result = run("check", *options, file)
    assert result.exit_code == 0
    assert result.stderr == f"warning: list 'ads': {file.parent / 'ads.txt'} is not there\n"


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


CURL = '{"program": "/usr/bin/curl", "remote": "192.0.2.1:443"}'


def test_explain(file: Path) -> None:
    result = run("explain", "--policy", file, CURL)
    assert result.exit_code == 0
    assert result.output == f"ask: rule 'rule 1', {file}:3 (python)\n"
    result = CliRunner().invoke(
        policy, ["explain", "--policy", str(file), "--json", "-", CURL], input=f"{CURL}\n\n{{\n"
    )
    assert result.exit_code == 1
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer.get("verdict") for answer in answers] == ["ask", None, "ask"]
    assert "not JSON" in answers[1]["error"]


def test_explain_reads_a_stream_of_events(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('version = 1\n[[rule]]\npackage = "curl"\nnot.ancestors = "/a"\nverdict = "block"\n')
    connection = json.loads(CURL)
    events = [
        {"event": "notice", "time": 1.0, "text": "Guarding"},
        {"event": "verdict", **connection},
        {"event": "verdict", **connection, "package": "curl"},
        {"event": "connection", "protocol": "packet", "remote": ""},
        {"event": "stats", "time": 2.0, "held": 1},
        connection,
    ]
    stream = "\n".join(map(json.dumps, events))
    result = CliRunner().invoke(policy, ["explain", "--policy", str(path), "--json", "-"], input=stream)
    assert (result.exit_code, result.stderr) == (0, "")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["not_carried"] for answer in answers] == [["ancestors", "package"], ["ancestors"], []]
    result = CliRunner().invoke(policy, ["explain", "--policy", str(path), json.dumps(events[1])])
    assert "  rules name what the event does not carry: ancestors, package;" in result.stdout


def test_explain_says_what_would_change_it(file: Path) -> None:
    result = run("explain", "--policy", file, '{"remote": "192.0.2.1:80", "direction": "in"}')
    assert "drop: the default for in (python)" not in result.output
    assert result.output.splitlines()[1:] == [
        "  not 'rule 1' (line 3): port is 0/tcp, not 443",
        "  it would be ask by 'rule 1' if port were 443",
    ]


def test_cases(file: Path) -> None:
    cases = file.with_name("cases.toml")
    cases.write_text('[[case]]\nconnection = {remote = "192.0.2.1:443"}\nverdict = "ask"\n')
    assert (run("test", cases).exit_code, run("test", cases).output) == (
        0,
        "1 of 1 cases came out as expected\n",
    )
    cases.write_text(cases.read_text().replace('"ask"', '"drop"'))
    result = run("test", cases)
    assert result.exit_code == 1
    assert result.output.startswith(f"{cases}:1: case 1: expected drop, found ask by 'rule 1'\n")
    assert json.loads(run("test", "--json", cases).output)["passed"] is False
    cases.write_text("x")
    assert run("test", cases).exit_code == 2


def test_compile_and_schema(file: Path) -> None:
    assert run("compile", file).output.startswith("1 rules: 0 decided in the kernel, 1 in Python")
    assert "in Python because of verdict ask: 1" in run("compile", "--stats", file).output
    assert json.loads(run("compile", "--json", file).output)["rules"] == 1
    assert json.loads(run("schema").output)["required"] == ["version"]


def test_lists_are_read_by_every_command(tmp_path: Path) -> None:
    (tmp_path / "ads.txt").write_text("||ads.example^\n||more.example^\n")
    (tmp_path / "mine.txt").write_text("*.deep.example\n192.0.2.0/24\n")
    path = tmp_path / "policy.toml"
    path.write_text(
        "version = 1\n[list.bad]\npath = '*.txt'\n[[rule]]\nname = 'listed'\nlist = 'bad'\nverdict = 'drop'\n"
    )
    verdicts = {
        ("x.ads.example", "203.0.113.1"): "drop",
        ("deep.example", "203.0.113.1"): "accept",
        ("x.deep.example", "203.0.113.1"): "drop",
        ("other.example", "192.0.2.7"): "drop",
        ("other.example", "192.0.3.7"): "accept",
    }
    those = [json.dumps({"name": name, "remote": remote}) for name, remote in verdicts]
    told = run("explain", "--json", "--policy", path, *those).output.splitlines()
    assert [json.loads(line)["verdict"] for line in told] == list(verdicts.values())
    cases = tmp_path / "cases.toml"
    lines = [
        f"[[case]]\nname = '{number}'\nconnection = {{name = '{name}', remote = '{remote}'}}\nverdict = '{verdict}'"
        for number, ((name, remote), verdict) in enumerate(verdicts.items())
    ]
    cases.write_text("\n".join(["policy = 'policy.toml'", *lines]))
    assert run("test", cases).output == "5 of 5 cases came out as expected\n"
    assert (
        "list bad               3 names         1 ranges of addresses"
        in run("compile", "--stats", path).output
    )
    sizes = json.loads(run("compile", "--json", path).output)["lists"]
    assert sizes == {"bad": {"names": 3, "ranges": 1}}
