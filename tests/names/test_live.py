"""Names while packets are held: what must wait, and for how long."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hellos import MANY, cut, of_aioquic, of_ssl
from names.test_talk import lookup, to_resolver
from tidewaiter.driver.core import SECOND
from tidewaiter.lab import plan
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.name import By, Hidden
from tidewaiter.model.packet import TcpFlag, build_tcp, build_udp
from tidewaiter.model.process import Process
from tidewaiter.names import live
from tidewaiter.names.first import TIME
from tidewaiter.names.live import LiveNames, Wait
from tidewaiter.names.talk import Text

HERE, WEB = ip_address(plan.CLIENT.v4), ip_address(plan.WEB.v4)
ISN = 2**32 - 3
HANDSHAKE, MORE = Wait.HANDSHAKE, Wait.MORE


def connection(
    protocol: int = Protocol.TCP, *, port: int = 4001, direction: Direction = Direction.OUT, cookie: int = 5
) -> Connection:
    """Curl's, to the web server."""
    key = ConnectionKey(protocol, HERE, port, WEB, 443)
    return Connection(1, key, direction, Process(7, "/usr/bin/curl"), cookie=cookie)


def sent(data: bytes = b"", at: int = 0, flags: int = TcpFlag.ACK, port: int = 4001) -> bytes:
    """A segment of the client's; ``at`` bytes of its stream came before."""
    return build_tcp(HERE, WEB, port, 443, flags, sequence=(ISN + 1 + at) % 2**32, payload=data)


SYN = build_tcp(HERE, WEB, 4001, 443, TcpFlag.SYN, sequence=ISN)
ANSWER = build_tcp(WEB, HERE, 443, 4001, TcpFlag.SYN | TcpFlag.ACK, sequence=9)


def teach(names: LiveNames, *asked: str) -> None:
    """Curl asks for these names."""
    of = to_resolver()
    for number, name in enumerate(asked):
        query, wire = lookup(name, number)
        names.heard(Text(of, True, query, 0, len(query)), SECOND)
        names.heard(Text(of, False, wire, 0, len(wire)), SECOND)


def test_one_name_by_dns_is_certain() -> None:
    names, one = LiveNames(), connection()
    teach(names, "web.lab")
    assert names.look(one, SYN, SECOND) is None
    assert (one.name.name, one.name.by) == ("web.lab", By.DNS)
    assert not names.waits(one)


@pytest.mark.parametrize("asked", [(), ("web.lab", "all.lab")], ids=["no name", "two names"])
def test_otherwise_the_handshake_passes_and_the_first_data_tells(asked: tuple[str, ...]) -> None:
    names, one = LiveNames(), connection()
    teach(names, *asked)
    assert names.look(one, SYN, SECOND) is HANDSHAKE
    assert names.look(one, ANSWER, SECOND) is HANDSHAKE
    assert names.look(one, sent(), SECOND) is HANDSHAKE
    assert names.waits(one)
    assert names.look(one, sent(of_ssl("web.lab")), SECOND) is None
    assert (one.name.name, one.name.by) == ("web.lab", By.TLS)
    assert names.look(one, sent(b"more"), SECOND) is None
    assert not names.waits(one)


@given(st.lists(st.integers(1, 500), max_size=6), st.randoms())
def test_a_hello_in_pieces_is_read_when_all_have_come(places: list[int], dice: object) -> None:
    names, one = LiveNames(), connection()
    assert names.look(one, SYN, SECOND) is HANDSHAKE
    hello, at, segments = of_ssl("web.lab"), 0, []
    for piece in cut(hello, sorted(set(places))):
        segments.append(sent(piece, at))
        at += len(piece)
    dice.shuffle(segments)  # type: ignore[attr-defined]
    waits = [names.look(one, segment, SECOND) for segment in segments]
    assert waits[-1] is None
    assert one.name.name == "web.lab"


def test_where_the_server_speaks_first_there_is_no_name_to_wait_for() -> None:
    names, one = LiveNames(), connection()
    names.look(one, SYN, SECOND)
    banner = build_tcp(WEB, HERE, 443, 4001, TcpFlag.ACK, sequence=10, payload=b"SSH-2.0-x\r\n")
    assert names.look(one, banner, SECOND) is None
    assert one.name.name == ""
    assert names.look(one, sent(b"SSH-2.0-y\r\n"), SECOND) is None


def test_what_has_no_name_in_it_does_not_wait() -> None:
    names, one = LiveNames(), connection()
    names.look(one, SYN, SECOND)
    assert names.look(one, sent(b"\x00\x01"), SECOND) is None
    assert names.look(connection(Protocol.ICMP), build_udp(HERE, WEB, 1, 2, b"x"), SECOND) is None
    assert names.look(connection(), b"no packet", SECOND) is None


def test_a_connection_that_was_open_before_does_not_wait() -> None:
    names, one = LiveNames(), connection()
    assert names.look(one, sent(of_ssl("web.lab"), 1000), SECOND) is None
    assert one.name.name == ""


def test_what_comes_in_does_not_wait() -> None:
    names, one = LiveNames(), connection(direction=Direction.IN)
    assert names.look(one, SYN, SECOND) is None


def test_half_a_hello_is_not_waited_for_forever() -> None:
    names, one = LiveNames(), connection()
    names.look(one, SYN, SECOND)
    assert names.look(one, sent(of_ssl("web.lab")[:100]), SECOND) is MORE
    assert names.deadline == SECOND + TIME
    assert names.late(SECOND + TIME - 1) == []
    assert names.late(SECOND + TIME) == [one.flow]
    assert names.look(one, sent(of_ssl("web.lab")[:100]), SECOND + TIME) is None
    assert one.name.hidden is Hidden.UNREADABLE
    assert names.deadline is None


def test_a_datagram_of_quic_tells_at_once_or_with_the_next() -> None:
    for hello in (of_aioquic("web.lab")[:1], of_aioquic("web.lab", MANY)):
        names, one = LiveNames(), connection(Protocol.UDP)
        found = [names.look(one, build_udp(HERE, WEB, 4001, 443, data), SECOND) for data in hello]
        assert found == [MORE] * (len(hello) - 1) + [None]
        assert (one.name.name, one.name.by) == ("web.lab", By.QUIC)


def test_the_same_ends_again_are_another_connection() -> None:
    names, one = LiveNames(), connection()
    names.look(one, SYN, SECOND)
    names.look(one, sent(of_ssl("web.lab")), SECOND)
    another = connection(cookie=6)  # nobody has said that the first is over
    assert names.look(another, SYN, SECOND) is HANDSHAKE
    assert another.name.name == ""
    names.look(another, sent(of_ssl("tls.lab")), SECOND)
    assert another.name.name == "tls.lab"


def test_an_address_keeps_its_names_while_a_connection_is_open() -> None:
    names, one = LiveNames(), connection()
    teach(names, "web.lab")
    names.call(one, SECOND)
    names.opened(one, SECOND)
    later = SECOND + 7200 * SECOND
    names.late(later)
    another = connection(port=4002)
    names.call(another, later)
    assert another.name.name == "web.lab"
    names.ended(one, later)
    names.late(later + 7200 * SECOND)
    last = connection(port=4003)
    names.call(last, later + 7200 * SECOND)
    assert last.name.name == ""


@pytest.mark.parametrize("bound", ["BEGINNING", "NAMED"])
def test_what_is_followed_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, bound, 2)
    names = LiveNames()
    teach(names, "web.lab", "all.lab")
    several = [connection(port=4001 + number) for number in range(5)]
    for number, one in enumerate(several):
        syn = build_tcp(HERE, WEB, 4001 + number, 443, TcpFlag.SYN, sequence=ISN)
        names.look(one, syn, SECOND)
        names.opened(one, SECOND)
    if bound == "BEGINNING":
        assert [names.waits(one) for one in several] == [False, False, False, True, True]
        assert (
            names.look(several[0], sent(of_ssl("web.lab"), port=4001), SECOND) is None
        )  # it has no name then
    assert len(names._named) <= live.NAMED
    for one in several:
        names.ended(one, SECOND)
    assert not names._beginning
    assert not names._named
