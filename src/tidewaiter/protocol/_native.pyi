"""Infos of fixed layouts as bytes and back, in C (native/)."""

from collections.abc import Callable
from typing import Any

from tidewaiter.protocol.info import Layout

def read(
    data: bytes,
    position: int,
    longest: int,
    layouts: tuple[Layout | None, ...],
    other: Callable[[int, int], Any],
    infos: list[Any],
    /,
) -> int:
    """Appends the whole infos in ``data`` from ``position`` on; returns where the first begins that is not there whole,
    or has more than ``longest`` bytes of data.

    ``layouts`` are those of the 256 types. What has none, or does not fit it, is asked of ``other``: where it begins,
    with its header, and stops. Twin: `tidewaiter.protocol.stream.read_one`.
    """

def write(info: tuple[Any, ...], layouts: tuple[Layout, ...], longest: int, /) -> bytes | None:
    """The bytes of an info, header included, by that of its layouts which has addresses of this length.

    None: it does not fit, or is longer than ``longest``.

    Twin: `tidewaiter.protocol.info.encode_one`, which says what is wrong with it.
    """
