"""Names for the engine; what it brings in live, the acceptance tests show (tests/acceptance/test_names.py)."""

from __future__ import annotations

from hellos import of_ssl
from names.test_live import HANDSHAKE, SYN, connection, sent
from tidewaiter.driver.core import Asked, Decided, Ended
from tidewaiter.service.naming import Naming


def test_it_looks_and_forgets_with_the_connection() -> None:
    naming, one = Naming(), connection()
    naming.follow(Asked(one, 1, first=True, waiting=1))
    assert naming.look(one, SYN) is HANDSHAKE
    assert naming.waits(one)
    assert naming.look(one, sent(of_ssl("web.lab"))) is None
    assert one.name.name == "web.lab"
    naming.follow(Decided(one, 0, first=False))
    naming.call(one)
    assert one.name.name == "web.lab"
    naming.follow(Ended(one))
    assert not naming.waits(one)
    assert naming.late() == []
    assert naming.deadline is None


def test_what_is_not_begun_yet_is_over_soon() -> None:
    naming, one = Naming(), connection()
    naming.look(one, SYN)
    naming.look(one, sent(of_ssl("web.lab")[:50]))
    assert naming.deadline is not None
    naming.follow(Ended(one))
    assert naming.deadline is None
    naming.close()
