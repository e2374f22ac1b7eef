"""cli/main.py: the commands, their help, what a shell completes, and what is loaded for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import tidewaiter
from tidewaiter.cli import main

NAMES = ["run", "driver", "connections", "policy", "lab", "doctor", "cleanup", "wire"]
RUN = "from tidewaiter.cli import main; main(prog_name='tidewaiter')"
_BASH = shutil.which("bash")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="tidewaiter")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command, as the words that call it."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in sorted(command.commands))
        else:
            yield (name,)


COMMANDS = list(commands())


OF_POLICY = [
    *("add", "check", "compile", "diff", "disable", "enable", "explain", "export", "history"),
    *("import", "move", "remove", "schema", "test", "undo"),
]


def test_all_commands_are_there() -> None:
    assert main.list_commands(click.Context(main)) == NAMES
    below = [("wire", "decode"), ("wire", "encode"), *(("policy", name) for name in OF_POLICY)]
    assert sorted(COMMANDS) == sorted(
        [*((name,) for name in NAMES if name not in ("policy", "wire")), *below]
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_first_page(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == (0 if arguments else 2)  # as of any command that lacks its arguments
    page = result.output
    assert page.startswith("Usage: tidewaiter [OPTIONS] COMMAND")
    for name in NAMES:
        assert f"\n  {name} " in page
    for example in ("tidewaiter run --mode observe", "tidewaiter lab -- sh -c 'curl $LAB_HTTP'"):
        assert f"\n    {example}\n" in page or f"\n      {example}\n" in page
    assert "_TIDEWAITER_COMPLETE=bash_source" in page


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: tidewaiter {' '.join(words)} ")
    _, found, examples = result.output.partition("Example")
    assert found
    assert f"tidewaiter {' '.join(words)}" in examples.partition("Options:")[0]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is_for(words: tuple[str, ...]) -> None:
    command: click.Command | None = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("words", [(), ("policy",), ("wire",), *COMMANDS], ids=" ".join)
def test_help_fits_eighty_columns(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    too_long = [line for line in run(*words, "--help").output.splitlines() if len(line) > 80]
    assert [line for line in too_long if "tidewaiter " not in line] == []  # an example is one line


def test_summaries_are_short_enough_for_a_line() -> None:
    page = run("--help").output.partition("Commands:\n")[2]
    assert [line.split()[0] for line in page.splitlines()] == NAMES
    assert all(line.endswith(".") for line in page.splitlines())


def test_version() -> None:
    assert run("--version").output == f"tidewaiter, version {tidewaiter.__version__}\n"


@pytest.mark.parametrize("words", [["rum"], ["Run"], ["main"], ["output"], ["policy", "chek"]])
def test_a_command_that_is_none(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"No such command '{words[-1]}'" in result.stderr.splitlines()[-1]


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["policy", "check", "--help"]])
def test_what_needs_no_kernel_loads_none(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tidewaiter.cli import main\n"
        f"main({arguments!r}, prog_name='tidewaiter', standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    loaded = in_a_process(code).splitlines()[-1].split()
    assert "tidewaiter.cli.main" in loaded
    assert [name for name in loaded if name.startswith(("tidewaiter.kernel", "tidewaiter.host"))] == []


def completed(words: str) -> set[str]:
    """What bash is offered for the last of the words."""
    output = in_a_process(
        RUN,
        _TIDEWAITER_COMPLETE="bash_complete",
        COMP_WORDS=f"tidewaiter {words}",
        COMP_CWORD=str(len(words.split(" "))),
    )
    return {line.partition(",")[2] for line in output.splitlines()}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("", NAMES),
        ("c", ["connections", "cleanup"]),
        ("policy ", OF_POLICY),
        ("policy import ", ["opensnitch", "portmaster"]),
        ("run --mode ", ["observe", "enforce"]),
        ("run --fail o", ["open"]),
        ("wire decode ", ["info", "command"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    assert completed(words) == set(offered)


def test_completion_of_options() -> None:
    assert {"--mode", "--policy", "--cgroup", "--netns", "--json", "--help"} <= completed("run --")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    if shell == "bash" and _BASH is None:
        pytest.skip("needs bash")
    script = in_a_process(RUN, _TIDEWAITER_COMPLETE=f"{shell}_source")
    assert "_TIDEWAITER_COMPLETE" in script
    if shell == "bash":
        assert _BASH is not None
        checked = subprocess.run(
            [_BASH, "--norc", "-c", f"{script}\ncomplete -p tidewaiter"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert checked.stdout.rstrip().endswith(" tidewaiter")
        assert checked.stderr == ""


@pytest.mark.parametrize("words", ["policy check {policy}", "wire decode info {wire}", "doctor", "--version"])
def test_where_nothing_can_be_printed_one_sentence_says_so(words: str, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("version = 1\n")
    (tmp_path / "wire").write_bytes(b"\x00\x06\x00\x00\x00\x03ready")
    given = words.format(policy=tmp_path / "policy", wire=tmp_path / "wire").split()
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", RUN, *given], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: The output cannot be written: No space left on device.\n",
    )
    closed = subprocess.run(
        ["sh", "-c", '"$0" "$@" >&-', sys.executable, "-c", RUN, *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (closed.returncode in (0, 1), closed.stderr) == (True, "")
