"""names/called.py: DNS and the first bytes, which of them is believed."""

from __future__ import annotations

import pytest

from tidewaiter.model.name import NO_NAME, By, Hidden, Name, unreadable
from tidewaiter.names.called import called
from tidewaiter.names.table import Known

WWW = Known("www.example", ("edge.example",), 0)
SHOP = Known("shop.example", (), 0)
TLS = Name("www.example", By.TLS, protocols=("h2",))
FRONT = Name("front.example", By.TLS, Hidden.ECH, "why", protocols=("h2",))
STRANGE = unreadable("why")


@pytest.mark.parametrize(
    ("known", "said", "name"),
    [
        ([], None, NO_NAME),
        ([], TLS, TLS),
        ([], FRONT, FRONT),
        ([], STRANGE, STRANGE),
        ([WWW], None, Name("www.example", By.DNS, chain=("edge.example",))),
        ([WWW, SHOP], None, Name("www.example", By.DNS, chain=("edge.example",), others=("shop.example",))),
        ([WWW], NO_NAME, Name("www.example", By.DNS, chain=("edge.example",))),
        ([WWW], STRANGE, Name("www.example", By.DNS, Hidden.UNREADABLE, "why", ("edge.example",))),
        ([SHOP, WWW], TLS, TLS._replace(chain=("edge.example",))),
        ([SHOP], TLS, TLS),
        ([WWW], TLS._replace(name="edge.example"), TLS._replace(name="edge.example", chain=("www.example",))),
        (
            [WWW],
            FRONT,
            Name("www.example", By.DNS, Hidden.ECH, "why", ("edge.example",), ("front.example",), ("h2",)),
        ),
        ([WWW], FRONT._replace(name="www.example"), TLS._replace(chain=("edge.example",))),
    ],
)
def test_what_a_connection_is_called(known: list[Known], said: Name | None, name: Name) -> None:
    assert called(known, said) == name
