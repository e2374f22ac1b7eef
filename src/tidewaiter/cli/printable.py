"""Texts that others chose, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with what would steer the terminal, or cannot be encoded, spelled out: names are others' choice."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
