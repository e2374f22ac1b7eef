"""The formats of lists, one parser each, and how to tell them apart.

A `Format` has a parser that says for one line what it lists, and is the definition of the format; beside it
stand the shapes that most of its lines have, which the native module reads a hundred times as fast. A parser
returns the entries of a line, none for a line that says nothing about names or addresses, and raises `LineError`
for one that means nothing. `FORMATS` has them by name. It may import `tidewaiter.lists.names`, `entry` and
`networks` only.
"""

from tidewaiter.lists.entry import ListError
from tidewaiter.lists.formats.adblock import ADBLOCK
from tidewaiter.lists.formats.dnsmasq import DNSMASQ
from tidewaiter.lists.formats.format import Format, Parser, is_comment
from tidewaiter.lists.formats.hosts import HOSTS
from tidewaiter.lists.formats.networks import NETWORKS
from tidewaiter.lists.formats.opensnitch import OPENSNITCH_DOMAINS, OPENSNITCH_NETWORKS
from tidewaiter.lists.formats.plain import DOMAINS, ZONES
from tidewaiter.lists.formats.rpz import RPZ

# In the order in which they are tried where the text must tell: what has more syntax of its own goes first.
_ALL = (RPZ, DNSMASQ, ADBLOCK, HOSTS, NETWORKS, DOMAINS, ZONES, OPENSNITCH_DOMAINS, OPENSNITCH_NETWORKS)

FORMATS: dict[str, Format] = {one.name: one for one in _ALL}
"""The formats by the names that the policy file has for them."""

_GUESSED = (RPZ, DNSMASQ, ADBLOCK, HOSTS, NETWORKS, DOMAINS)
_LINES = 500


def detect(sample: str) -> Format | None:
    """The format of which the most lines of a text make sense; None where none has more that do than do not.

    ``zones`` is never found, since its lines look like those of ``domains`` and list more, nor are OpenSnitch's, in
    which every line makes sense.
    """
    lines = sample.splitlines()
    scores = [(_score(one, lines), one) for one in _GUESSED]
    best, found = max(scores, key=lambda pair: pair[0])
    return found if best > 0 else None


def _score(one: Format, lines: list[str]) -> int:
    """Lines with entries, less those that are bad."""
    parse, score = one.parser(), 0
    for line in [line for line in lines if not is_comment(line, one.comments)][:_LINES]:
        try:
            score += bool(parse(line))
        except ListError:
            return 0
        except ValueError:
            score -= 1
    return score


__all__ = ["FORMATS", "Format", "Parser", "detect", "is_comment"]
