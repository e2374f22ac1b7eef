"""model/name.py: no name is not the same as an unreadable one."""

from __future__ import annotations

from tidewaiter.model.name import NO_NAME, Hidden, unreadable


def test_unreadable_says_why() -> None:
    assert (unreadable("x").hidden, unreadable("x").why, unreadable("x").name) == (Hidden.UNREADABLE, "x", "")
    assert (NO_NAME.name, NO_NAME.by, NO_NAME.hidden) == ("", None, None)
