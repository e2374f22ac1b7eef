"""protocol/errors.py: each error says who must act, in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidewaiter.model.verdict import Verdict
from tidewaiter.protocol import command, errors, text
from tidewaiter.protocol.command import Update
from tidewaiter.protocol.errors import CommandError, LocalProtocolError, ProtocolError, RemoteProtocolError
from tidewaiter.protocol.stream import InfoDecoder


def half_an_info() -> None:
    decoder = InfoDecoder()
    decoder.feed(b"\x01")
    decoder.close()


OURS: list[Callable[[], object]] = [
    lambda: command.encode(Update(6, b"123", 1, b"123", 2, Verdict.DROP)),
    lambda: text.parse_command("{"),
    lambda: text.parse_info('{"type": "Verdict"}'),
]
THEIRS: list[Callable[[], object]] = [
    lambda: command.decode(b""),
    lambda: command.decode(b"\xff"),
    half_an_info,
]


def test_they_are_split_by_who_must_act() -> None:
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert issubclass(CommandError, RemoteProtocolError)
    assert not issubclass(ProtocolError, OSError | ValueError)  # nobody catches them by accident


def test_each_is_explained() -> None:
    found = [item for item in vars(errors).values() if isinstance(item, type)]
    assert len(found) == 4
    assert all(item.__doc__ for item in found)


@pytest.mark.parametrize("wrong", OURS)
def test_what_we_say_wrong_is_a_local_error(wrong: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        wrong()
    is_one_sentence(caught.value)


@pytest.mark.parametrize("wrong", THEIRS)
def test_what_they_say_wrong_is_a_remote_error(wrong: Callable[[], object]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wrong()
    is_one_sentence(caught.value)


def is_one_sentence(error: ProtocolError) -> None:
    assert str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 200
