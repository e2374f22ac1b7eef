"""Host names with letters beyond ASCII, as they travel (RFC 5890)."""

from __future__ import annotations

import idna


def in_ascii(name: str) -> str:
    """A name of other scripts in ASCII, each of its parts as ``xn--``. Raises ValueError, which says why it is none.

    Letters are mapped as browsers do it (UTS 46, not transitional, so that ß stays itself) and encoded by IDNA 2008.
    """
    try:
        mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode() for label in mapped.split(".")
        )
    except (idna.IDNAError, UnicodeError, IndexError) as error:
        raise ValueError(str(error)) from None
