"""Python functions that rules name."""

from __future__ import annotations

import logging
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy import Answer, Policy, PolicyError
from tidewaiter.service.functions import PERMANENT, call, functions_of

KEY = ConnectionKey(6, ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 2)
CONNECTION = Connection(1, KEY, Direction.OUT)


def rule(function: str) -> Policy:
    return Policy.parse(f'version = 1\n[[rule]]\nname = "x"\nverdict = "python: {function}"\n')


def test_they_are_found_and_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tw_mine.py").write_text(
        "from tidewaiter import Verdict\n"
        "def decide(connection):\n    return Verdict.BLOCK if connection.key.remote_port == 2 else None\n"
        "word = 'no function'\n"
    )
    function = functions_of(rule("tw_mine.decide"))["tw_mine.decide"]
    assert call(function, CONNECTION, Verdict.DROP) is Verdict.BLOCK
    with pytest.raises(PolicyError, match=r"policy\.toml:2:1: tw_mine\.word cannot be called; "):
        functions_of(rule("tw_mine.word"))


@pytest.mark.parametrize("name", ["not_there.decide", "os.not_there", "this_is.not_there.either"])
def test_one_that_is_not_there_is_said_at_its_rule(name: str) -> None:
    with pytest.raises(PolicyError, match=rf"policy\.toml:2:1: the function {name} cannot be imported"):
        functions_of(rule(name))


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise ValueError('two\\nlines')", "def decide(:"])
def test_a_module_that_cannot_be_imported_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tw_broken.py").write_text(code)
    with pytest.raises(
        PolicyError, match=r"policy\.toml:2:1: the function tw_broken\.x cannot be imported"
    ) as raised:
        functions_of(rule("tw_broken.x"))
    assert "\n" not in str(raised.value)


def test_one_that_fails_is_as_if_nobody_had_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert call(lambda _: 1 / 0, CONNECTION, Verdict.DROP) is Verdict.DROP  # type: ignore[arg-type,return-value]
    assert call(lambda _: sys.exit(1), CONNECTION, Verdict.DROP) is Verdict.DROP
    assert call(lambda _: "block", CONNECTION, Verdict.DROP) is Verdict.DROP  # type: ignore[arg-type,return-value]
    assert len(caplog.records) == 3


def test_every_answer_that_decides_has_a_verdict() -> None:
    assert set(Answer) - set(PERMANENT) == {Answer.ASK, Answer.PYTHON}
