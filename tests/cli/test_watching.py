"""cli/watching.py: signals that are kept until they are looked at, and a file that changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tidewaiter.cli.watching import PolicyFile, changes, signals


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("1")
    changed = changes(str(path))
    assert [next(changed), next(changed)] == [False, False]
    path.write_text("22")
    assert [next(changed), next(changed)] == [True, False]
    new = tmp_path / "new"
    new.write_text("22")
    path.unlink()
    assert not next(changed), "between two versions"
    new.rename(path)
    assert [next(changed), next(changed)] == [True, False]


def test_no_file_never_changes() -> None:
    changed = changes(None)
    assert [next(changed), next(changed)] == [False, False]


def test_a_policy_is_followed_with_what_it_includes(tmp_path: Path) -> None:
    path, part = tmp_path / "policy.toml", tmp_path / "part.toml"
    path.write_text('version = 1\ninclude = "part.toml"\n')
    part.write_text("version = 1\n")
    followed = PolicyFile(str(path))
    loaded: list[int] = []
    told: list[str] = []

    def reload() -> None:
        followed.reload(lambda policy: loaded.append(len(policy.rules)), told.append)

    assert followed.first().rules == ()
    assert not followed.changed()
    part.write_text('version = 1\n[[rule]]\nverdict = "block"\n')
    assert [followed.changed(), followed.changed()] == [True, False]
    reload()
    assert (loaded, told) == ([1], [f"{path} is in force"])
    part.write_text("version = 7\n")
    assert followed.changed()
    reload()
    assert loaded == [1]
    assert told[1].startswith(f"{part}:1:")
    assert told[1].endswith("; the policy in force stays")


def test_without_a_policy_nothing_is_read_again() -> None:
    followed = PolicyFile(None)
    assert followed.first().rules == ()
    assert not followed.changed()
    followed.reload(lambda _: 1 / 0, lambda _: 1 / 0)


def test_signals_are_kept_and_handlers_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with signals() as seen:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert seen == {signal.SIGTERM, signal.SIGHUP}
    assert [signal.getsignal(number) for number in numbers] == before
