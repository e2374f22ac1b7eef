"""cli/errors.py: what the parts raise is one sentence and a status by who must act; a bug keeps its trace."""

from __future__ import annotations

import errno
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tidewaiter.cli.errors import Failure, one_sentence
from tidewaiter.host.hold import HoldError
from tidewaiter.host.queue import QueueError
from tidewaiter.host.state import StateError
from tidewaiter.kernel.btf import BtfError
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.policy import Policy, PolicyError


def a_policy_error() -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        Policy.parse("version = 1\nnonsense = 2\n")
    return caught.value


def run(error: BaseException) -> Result:
    @click.command()
    def command() -> None:
        with one_sentence():
            raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StateError("the firewall 'a' already runs"), "the firewall 'a' already runs"),
        (HoldError("hold rules cannot be installed"), "hold rules cannot be installed"),
        (BtfError("no type of that name"), "no type of that name"),
        (
            KernelError(errno.EPERM, "loading: not permitted; run as root"),
            "loading: not permitted; run as root",
        ),
        (KernelError("only words"), "only words"),
        (QueueError(errno.EBUSY, "queue 7 is taken"), "queue 7 is taken"),
        (FileNotFoundError("/x is no control group"), "/x is no control group"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/sys/fs/bpf/x"),
            "Permission denied (/sys/fs/bpf/x); run it as root",
        ),
        (
            PermissionError(errno.EPERM, "Operation not permitted"),
            "Operation not permitted (this needs root); run it as root",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_this_host_lacks(error: Exception, said: str) -> None:
    result = run(error)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {said}\n")


def test_what_the_user_has_written() -> None:
    error = a_policy_error()
    result = run(error)
    assert (result.exit_code, result.stderr) == (2, f"Error: {error}\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), ValueError("ours"), AssertionError()])
def test_a_bug_of_ours_keeps_its_trace(error: Exception) -> None:
    assert run(error).exception is error


def test_a_failure_passes() -> None:
    result = run(Failure("no firewall runs", 7))
    assert (result.exit_code, result.stderr) == (7, "Error: no firewall runs\n")
    assert Failure("x").exit_code == 1


def test_the_cause_stays() -> None:
    error = StateError("damaged")
    with pytest.raises(Failure) as caught, one_sentence():
        raise error
    assert caught.value.__cause__ is error


def test_nothing_happens_without_an_error(tmp_path: Path) -> None:
    with one_sentence():
        done = tmp_path.exists()
    assert done
