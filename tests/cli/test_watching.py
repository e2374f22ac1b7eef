"""cli/watching.py: signals that are kept until they are looked at, and a file that changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tidewaiter.cli.watching import changes, signals


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


def test_signals_are_kept_and_handlers_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with signals() as seen:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert seen == {signal.SIGTERM, signal.SIGHUP}
    assert [signal.getsignal(number) for number in numbers] == before
