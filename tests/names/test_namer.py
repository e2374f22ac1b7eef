"""names/namer.py: recorded connections by their names, those of real programs and made ones."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from hellos import MANY, V1, V2, cut, of_aioquic, of_ssl, vector
from tidewaiter.driver.core import SECOND, Ended
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Protocol, parse_endpoint
from tidewaiter.model.name import By, Hidden
from tidewaiter.model.packet import TcpFlag, build_tcp, build_udp, parse_packet
from tidewaiter.model.process import Process
from tidewaiter.names import talk
from tidewaiter.names.first import TIME
from tidewaiter.policy.document import Policy
from tidewaiter.replay.capture import Capture, Captured
from tidewaiter.replay.player import play
from tidewaiter.replay.programs import Programs, programs_file, read_programs

RECORDED = Path(__file__).parent / "recorded" / "names.pcap"
EXAMPLE = Path(__file__).parents[2] / "examples" / "capture.pcap"
SERVER = "198.51.100.2:443"
RESOLVER = "192.0.2.53:53"
CURL, WGET = Process(7, "/usr/bin/curl"), Process(8, "/usr/bin/wget")
ISN = 2**32 - 5


def udp(source: str, destination: str, data: bytes) -> bytes:
    """A datagram."""
    (here, port), (there, other) = parse_endpoint(source), parse_endpoint(destination)
    return build_udp(here, there, port, other, data)


def stream(client: str, server: str, *pieces: bytes, back: bytes = b"", start: int = 0) -> list[bytes]:
    """The handshake and the data of a TCP connection; its numbers go beyond the largest."""
    (here, port), (there, other) = parse_endpoint(client), parse_endpoint(server)
    packets = [
        build_tcp(here, there, port, other, TcpFlag.SYN, sequence=ISN),
        build_tcp(there, here, other, port, TcpFlag.SYN | TcpFlag.ACK, sequence=77),
    ][start:]
    at = ISN + 1
    for piece in pieces:
        packets.append(build_tcp(here, there, port, other, TcpFlag.ACK, sequence=at % 2**32, payload=piece))
        at += len(piece)
    if back:
        packets.append(build_tcp(there, here, other, port, TcpFlag.ACK, sequence=78, payload=back))
    return packets


def lookup(*answer: tuple[str, str, str], number: int = 1) -> tuple[bytes, bytes]:
    """A question and its answer in bytes: owner, type, value; the first owner is what is asked for."""
    query = dns.message.make_query(answer[0][0], "A", id=number, use_edns=True)
    response = dns.message.make_response(query)
    for owner, kind, value in answer:
        response.answer.append(dns.rrset.from_text(owner, 300, "IN", kind, value))
    return query.to_wire(), response.to_wire()


def resolved(client: str, *answer: tuple[str, str, str]) -> list[bytes]:
    """The same in packets."""
    query, response = lookup(*answer)
    return [udp(client, RESOLVER, query), udp(RESOLVER, client, response)]


def ended(
    packets: Iterable[bytes], *, every: int = SECOND // 10, programs: Programs | None = None, local: str = ""
) -> list[Connection]:
    """The connections of these packets, in the order in which they began."""
    timed = (Captured(SECOND + number * every, data) for number, data in enumerate(packets))
    networks = [ip_network(local)] if local else []
    happenings = play(timed, Policy(), programs=programs, local=networks)
    found = [one.connection for one in happenings if isinstance(one, Ended)]
    return sorted(found, key=lambda connection: connection.id)


def names(packets: Iterable[bytes], **options: object) -> list[tuple[str, By | None]]:
    """What they are called, and who said it."""
    return [(one.name.name, one.name.by) for one in ended(packets, **options)]  # type: ignore[arg-type]


def test_the_capture_that_is_shipped() -> None:
    with EXAMPLE.open("rb") as file:
        happenings = list(play(Capture(file), Policy(), programs=read_programs(programs_file(EXAMPLE))))
    found = [one.connection for one in happenings if isinstance(one, Ended)]
    called = {(one.process.name, one.key.remote_port, one.name.name, one.name.by) for one in found}
    assert {
        ("curl", 80, "web.lab", By.HTTP),
        ("curl", 443, "tls.lab", By.TLS),
    } <= called
    assert all(one.name.hidden is None for one in found)


def test_a_recorded_capture_of_real_programs() -> None:
    """By tcpdump on one machine: dnsmasq 2.90 with a chain of aliases, two TLS clients, two connections of aioquic.

    curl 7.88 has a ClientHello of one segment; OpenSSL 4.0.3 has one of four: segments of 588 bytes, a key share of
    ML-KEM and an encrypted ClientHello that means nothing. The second QUIC client offers sixty protocols, in three
    datagrams.
    """
    with RECORDED.open("rb") as file:
        happenings = list(play(Capture(file), Policy()))
    found = [one.connection for one in happenings if isinstance(one, Ended)]
    shop, quic = (
        [one.name for one in found if one.name.name == name] for name in ("shop.example", "quic.example")
    )
    assert [(one.by, one.hidden) for one in shop] == [(By.TLS, None)] * 2
    assert {one.chain for one in shop} == {("edge.cdn.example", "pop7.cdn.example")}
    assert [(one.by, one.protocols[0]) for one in quic] == [(By.QUIC, "h3")] * 2
    assert {one.key.remote_port for one in found if not one.name.name} == {53}


def test_without_dns_an_encrypted_hello_may_hide_the_name() -> None:
    with RECORDED.open("rb") as file:
        packets = [one for one in Capture(file) if parse_packet(one.data).protocol == Protocol.TCP]
    found = [one.connection.name for one in play(packets, Policy()) if isinstance(one, Ended)]
    assert [(one.name, one.chain, one.hidden) for one in found] == [
        ("shop.example", (), None),
        ("shop.example", (), Hidden.ECH),
    ]


@pytest.mark.parametrize("client", ["192.0.2.1:4000", "[2001:db8::1]:4000"])
def test_a_hello_over_three_segments_in_any_order(client: str) -> None:
    server = SERVER if client.startswith("1") else "[2001:db8::2]:443"
    *handshake, one, two, three = stream(client, server, *cut(of_ssl("tls.example", MANY), [1000, 2000]))
    for order in ([one, two, three], [three, one, one, two]):
        assert names([*handshake, *order]) == [("tls.example", By.TLS)]


@pytest.mark.parametrize("version", [V1, V2])
def test_a_quic_client(version: int) -> None:
    datagrams = of_aioquic("quic.example", MANY, version=version)
    assert names(udp("192.0.2.1:4000", SERVER, data) for data in datagrams) == [("quic.example", By.QUIC)]


def test_dns_names_what_says_no_name_and_keeps_its_aliases() -> None:
    answer = (("www.example.", "CNAME", "cdn.example."), ("cdn.example.", "A", "198.51.100.2"))
    found = ended([*resolved("192.0.2.1:5000", *answer), *stream("192.0.2.1:4000", SERVER, b"SSH-2.0-x\r\n")])
    name = found[1].name
    assert (name.name, name.by, name.chain) == ("www.example", By.DNS, ("cdn.example",))


def test_two_programs_with_different_names_for_one_address_are_told_apart() -> None:
    programs: Programs = {
        (Protocol.UDP, 5000): CURL,
        (Protocol.TCP, 4000): CURL,
        (Protocol.UDP, 5001): WGET,
        (Protocol.TCP, 4001): WGET,
        (Protocol.TCP, 4002): Process(9, "/usr/bin/nc"),
    }
    packets = [
        *resolved("192.0.2.1:5000", ("a.example.", "A", "198.51.100.2")),
        *resolved("192.0.2.1:5001", ("b.example.", "A", "198.51.100.2")),
        *(packet for port in (4000, 4001, 4002) for packet in stream(f"192.0.2.1:{port}", SERVER)),
    ]
    assert names(packets, programs=programs)[2:] == [("a.example", By.DNS), ("b.example", By.DNS), ("", None)]


def test_what_a_resolver_of_this_host_asks_is_for_all() -> None:
    programs: Programs = {
        (Protocol.UDP, 5000): Process(7, "/usr/lib/systemd/systemd-resolved"),
        (Protocol.TCP, 4000): CURL,
    }
    packets = [
        *resolved("192.0.2.1:5000", ("a.example.", "A", "198.51.100.2")),
        *stream("192.0.2.1:4000", SERVER),
    ]
    assert names(packets, programs=programs)[1] == ("a.example", By.DNS)


def test_dns_over_tcp() -> None:
    query, response = lookup(("a.example.", "A", "198.51.100.2"))
    asking = stream("192.0.2.1:5000", RESOLVER, *cut(vector(2, query), [1, 9]), back=vector(2, response))
    assert names([*asking, *stream("192.0.2.1:4000", SERVER)])[1] == ("a.example", By.DNS)


def test_connections_to_resolvers_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "TALKS", 1)
    query, response = lookup(("a.example.", "A", "198.51.100.2"))
    first, second = "192.0.2.1:5000", "192.0.2.1:5001"
    asked = [udp(first, RESOLVER, query), udp(second, RESOLVER, query)]
    for answered, name in ((first, ""), (second, "a.example")):
        packets = [*asked, udp(RESOLVER, answered, response), *stream("192.0.2.1:4000", SERVER)]
        assert names(packets)[2][0] == name


def test_an_answer_that_nobody_asked_for_teaches_nothing() -> None:
    query, _ = lookup(("a.example.", "A", "198.51.100.2"))
    _, forged = lookup(("a.example.", "A", "198.51.100.2"), number=2)
    packets = [udp("192.0.2.1:5000", RESOLVER, query), udp(RESOLVER, "192.0.2.1:5000", forged)]
    assert names([*packets, *stream("192.0.2.1:4000", SERVER)])[1] == ("", None)


def test_forwarded_hosts_are_told_apart() -> None:
    packets = [
        *resolved("10.0.0.1:5000", ("a.example.", "A", "198.51.100.2")),
        *stream("10.0.0.1:4000", SERVER),
        *stream("10.0.0.2:4000", SERVER),
    ]
    assert names(packets, local="172.16.0.0/12")[1:] == [("a.example", By.DNS), ("", None)]


def test_what_comes_in_is_called_what_its_client_asks_for() -> None:
    request = b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n"
    assert names(stream("192.0.2.9:4000", SERVER, request), local="198.51.100.2/32") == [
        ("www.example", By.HTTP)
    ]


def test_what_begins_and_stops_is_unreadable() -> None:
    begun = stream("192.0.2.1:4000", SERVER, of_ssl("tls.example")[:100])
    (one,) = ended([*begun, begun[0]], every=TIME)
    assert one.name.hidden is Hidden.UNREADABLE


def test_dns_in_secret_is_said() -> None:
    doh = stream("192.0.2.1:4000", "192.0.2.9:443", of_ssl("dns.google"))
    dot = stream("192.0.2.1:4001", "192.0.2.9:853", of_ssl("my.resolver.example"))
    assert [one.name.hidden for one in ended([*doh, *dot])] == [Hidden.DOH, Hidden.DOT]


def test_a_stream_whose_beginning_was_not_captured_has_no_name() -> None:
    assert names(stream("192.0.2.1:4000", SERVER, of_ssl("tls.example"), start=2)) == [("", None)]


def test_a_part_of_a_datagram_says_nothing() -> None:
    whole = udp("192.0.2.1:4000", SERVER, of_aioquic("quic.example")[0])
    (one,) = ended([whole[:300]])
    assert (one.name.name, one.name.hidden) == ("", None)
    assert ip_address("198.51.100.2") == one.key.remote
