"""replay/player.py: the driver and the policy on recorded packets, and on the capture in examples/."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captures import pcap
from strategies import FUZZ, hostile_packets
from tidewaiter.driver.connections import ENDED_CAPACITY
from tidewaiter.driver.core import SECOND, Asked, Decided, Ended, Established
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import Direction, Protocol, parse_endpoint
from tidewaiter.model.packet import TcpFlag, build_ip, build_tcp, build_udp
from tidewaiter.model.process import UNKNOWN, Process
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer
from tidewaiter.replay import player as player_module
from tidewaiter.replay.capture import Capture, Captured
from tidewaiter.replay.player import UDP_IDLE, Happening, Player, Said, play
from tidewaiter.replay.programs import Programs, programs_file, read_programs

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCEPT = Policy()
CLIENT, SERVER = "192.0.2.1:4000", "192.0.2.2:443"
CLIENT_6, SERVER_6 = "[2001:db8::1]:4000", "[2001:db8::2]:443"
FLAGS = {"S": TcpFlag.SYN, "A": TcpFlag.ACK, "F": TcpFlag.FIN, "R": TcpFlag.RST, "P": TcpFlag.PSH}
POLICY = Policy.parse(
    """
    version = 1
    [default]
    in = "drop"
    forward = "block"
    [[rule]]
    name = "no mail"
    port = "25/tcp"
    verdict = "block"
    [[rule]]
    name = "curl asks"
    program = "/usr/bin/curl"
    verdict = "ask"
    """
)


def tcp(source: str, destination: str, flags: str, sequence: int = 0, data: bytes = b"") -> bytes:
    """A TCP segment; ``flags`` are the letters that tcpdump uses, with A for the acknowledgement."""
    (here, port), (there, other) = parse_endpoint(source), parse_endpoint(destination)
    bits = sum(FLAGS[letter] for letter in flags)
    return build_tcp(here, there, port, other, bits, sequence=sequence, payload=data)


def udp(source: str, destination: str, data: bytes = b"") -> bytes:
    """A datagram."""
    (here, port), (there, other) = parse_endpoint(source), parse_endpoint(destination)
    return build_udp(here, there, port, other, data)


def conversation(client: str = CLIENT, server: str = SERVER) -> list[bytes]:
    """A whole TCP connection: 5 bytes there, 11 bytes back, an orderly end."""
    return [
        tcp(client, server, "S", 100),
        tcp(server, client, "SA", 900),
        tcp(client, server, "A", 101),
        tcp(client, server, "PA", 101, b"hello"),
        tcp(server, client, "A", 901),
        tcp(server, client, "PA", 901, b"hello world"),
        tcp(server, client, "FA", 912),
        tcp(client, server, "FA", 106),
        tcp(server, client, "A", 913),
    ]


def replay(
    packets: Iterable[bytes], policy: Policy = ACCEPT, *, every: int = SECOND, **options: object
) -> list[Happening]:
    """What happens when the packets are played, the first of them at one second."""
    timed = (Captured(SECOND + number * every, data) for number, data in enumerate(packets))
    return list(play(timed, policy, **options))  # type: ignore[arg-type]


def kinds(happenings: Iterable[Happening]) -> list[str]:
    """Their types, by name."""
    return [type(happening).__name__ for happening in happenings]


def ended(happenings: Iterable[Happening]) -> list[Connection]:
    """The connections that are over, in the order in which they ended."""
    return [happening.connection for happening in happenings if isinstance(happening, Ended)]


def only(happenings: Iterable[Happening]) -> Connection:
    """The one connection that there was."""
    (connection,) = ended(happenings)
    return connection


# --- a connection's life --------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT_6, SERVER_6)])
def test_a_tcp_connection_from_beginning_to_end(client: str, server: str) -> None:
    happenings = replay(conversation(client, server))
    assert kinds(happenings) == ["Asked", "Said", "Decided", "Established", "Ended"]
    connection = only(happenings)
    assert all(happening.connection is connection for happening in happenings)
    assert (connection.key.local_endpoint, connection.key.remote_endpoint) == (client, server)
    assert (connection.direction, connection.process) == (Direction.OUT, UNKNOWN)
    assert (connection.opened, connection.established, connection.ended) == (SECOND, 2 * SECOND, 8 * SECOND)
    assert (connection.sent, connection.received) == (5, 11)
    assert (connection.verdict, connection.tier) == (Verdict.PERMANENT_ACCEPT, Tier.PYTHON)


def test_a_reset_ends_at_once() -> None:
    happenings = replay([tcp(CLIENT, SERVER, "S"), tcp(SERVER, CLIENT, "RA")])
    assert kinds(happenings) == ["Asked", "Said", "Decided", "Ended"]
    assert only(happenings).ended == 2 * SECOND


def test_what_comes_twice_counts_once_and_order_does_not_matter() -> None:
    first, second, third = (
        tcp(CLIENT, SERVER, "PA", sequence % 2**32, data)
        for sequence, data in ((2**32 - 3, b"12345"), (2**32 + 2, b"6789"), (2**32 + 6, b"0"))
    )
    beginning = [tcp(CLIENT, SERVER, "S", 2**32 - 4)]
    keepalive = tcp(CLIENT, SERVER, "A", 6)
    assert only(replay([*beginning, first, first, third, second, third, keepalive, first])).sent == 10
    assert only(replay([first, second, tcp(SERVER, CLIENT, "PA", 5, b"abc")])).sent == 9
    assert only(replay([*beginning, tcp(CLIENT, SERVER, "S", 2**32 - 4), first])).sent == 5


def test_a_fin_takes_a_number_but_is_no_byte() -> None:
    half_closed = [
        *conversation()[:4],
        tcp(CLIENT, SERVER, "FA", 106),
        tcp(SERVER, CLIENT, "PA", 901, b"the rest"),
        tcp(CLIENT, SERVER, "A", 107),
        tcp(SERVER, CLIENT, "FA", 909),
    ]
    connection = only(replay(half_closed))
    assert (connection.sent, connection.received, connection.ended) == (5, 8, 8 * SECOND)


def test_a_connection_that_was_open_before_the_capture() -> None:
    happenings = replay([tcp(SERVER, CLIENT, "PA", 7, b"12"), tcp(CLIENT, SERVER, "A", 9)])
    connection = only(happenings)
    assert connection.key.local_endpoint == SERVER, "who began cannot be known: it is who is seen first"
    assert (connection.sent, connection.established) == (2, 2 * SECOND)


def test_the_answer_to_a_first_packet_that_was_not_captured() -> None:
    connection = only(replay(conversation()[1:]))
    assert (connection.key.local_endpoint, connection.direction) == (CLIENT, Direction.OUT)
    assert (connection.sent, connection.received) == (5, 11)


def test_stragglers_begin_nothing_but_a_new_handshake_does() -> None:
    straggler = tcp(SERVER, CLIENT, "PA", 901, b"hello world")
    assert len(ended(replay([*conversation(), straggler, tcp(CLIENT, SERVER, "R")]))) == 1
    again = ended(replay([*conversation(), straggler, *conversation()]))
    assert [(one.id, one.sent, one.received) for one in again] == [(1, 5, 11), (2, 5, 11)]
    assert ended(replay([tcp(CLIENT, SERVER, "RA")])) == []


def test_udp_is_over_after_a_minute_of_silence() -> None:
    packets = [udp(CLIENT, SERVER, b"ask"), udp(SERVER, CLIENT, b"answer")]
    happenings = replay([*packets, *packets], every=UDP_IDLE - 1)
    assert kinds(happenings) == ["Asked", "Said", "Decided", "Ended"]
    connection = only(happenings)
    assert (connection.sent, connection.received) == (6, 12)
    assert connection.ended == connection.opened + 3 * (UDP_IDLE - 1), "the end of the capture"
    first, second = ended(replay(packets, every=UDP_IDLE))
    assert (first.sent, first.ended) == (3, SECOND + UDP_IDLE)
    assert (second.sent, second.key.local_endpoint) == (6, SERVER)


def test_what_is_open_at_the_end_of_the_capture_ends_there() -> None:
    packets = [*conversation()[:4], udp(CLIENT, SERVER, b"x"), udp(CLIENT_6, SERVER_6, b"y")]
    assert [connection.id for connection in ended(replay(packets))] == [1, 2, 3]
    assert {connection.ended for connection in ended(replay(packets))} == {6 * SECOND}


def test_a_clock_that_goes_back_stands_still() -> None:
    packets = [Captured(time, udp(CLIENT, SERVER, b"x")) for time in (9 * SECOND, 3 * SECOND, 0)]
    connection = only(play(packets, ACCEPT))
    assert (connection.opened, connection.ended, connection.sent) == (9 * SECOND, 9 * SECOND, 3)


def test_a_capture_without_times() -> None:
    happenings = list(play([Captured(0, data) for data in conversation()], ACCEPT))
    assert kinds(happenings) == ["Asked", "Said", "Decided", "Established", "Ended"]


def test_the_longest_idle_of_too_many_connections_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player_module, "OPEN", 2)
    first, second, third = (f"192.0.2.1:{port}" for port in (1, 2, 3))
    happenings = replay(tcp(client, SERVER, "S") for client in (first, second, first, third))
    assert [connection.key.local_endpoint for connection in ended(happenings)] == [second, first, third]


# --- whose it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "direction", "ours"),
    [
        ([], Direction.OUT, CLIENT),
        (["192.0.2.1"], Direction.OUT, CLIENT),
        (["192.0.2.2/32", "fd00::/8"], Direction.IN, SERVER),
        (["192.0.2.0/24"], Direction.OUT, CLIENT),
        (["10.0.0.0/8", "::/0"], Direction.FORWARD, CLIENT),
    ],
)
def test_the_local_end(local: list[str], direction: Direction, ours: str) -> None:
    connection = only(replay(conversation(), local=[ip_network(network) for network in local]))
    assert (connection.direction, connection.key.local_endpoint) == (direction, ours)
    assert sorted([connection.sent, connection.received]) == [5, 11]
    assert (connection.sent == 5) == (ours == CLIENT)


def test_an_inbound_connection_is_established_by_its_third_packet() -> None:
    connection = only(replay(conversation(), local=[ip_network("192.0.2.2/32")]))
    assert connection.established == 3 * SECOND


def test_programs_by_local_port_and_protocol() -> None:
    curl, dig = Process(7, "/usr/bin/curl"), Process(8, "/usr/bin/dig")
    programs: Programs = {(Protocol.TCP, 4000): curl, (Protocol.UDP, 4000): dig, (Protocol.TCP, 443): dig}
    over_tcp, over_udp, other = ended(
        replay([*conversation(), udp(CLIENT, SERVER), udp("192.0.2.1:4001", SERVER)], programs=programs)
    )
    assert (over_tcp.process, over_udp.process, other.process) == (curl, dig, UNKNOWN)
    forwarded = replay(conversation(), programs=programs, local=[ip_network("10.0.0.0/8")])
    assert only(forwarded).process is UNKNOWN


# --- the policy -----------------------------------------------------------------------------------------


def said(happenings: Iterable[Happening]) -> list[tuple[Answer, str]]:
    """What the policy said of each connection."""
    return [(one.decision.answer, one.decision.rule) for one in happenings if isinstance(one, Said)]


def test_what_the_policy_refuses_is_counted_all_the_same() -> None:
    happenings = replay(conversation(server="192.0.2.2:25"), POLICY)
    connection = only(happenings)
    assert said(happenings) == [(Answer.BLOCK, "no mail")]
    assert (connection.verdict, connection.rule) == (Verdict.PERMANENT_BLOCK, "no mail")
    assert (connection.sent, connection.received) == (5, 11)


@pytest.mark.parametrize("on_ask", [Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_DROP])
def test_a_question_is_shown_and_answered_by_the_default(on_ask: Verdict) -> None:
    programs: Programs = {(Protocol.TCP, 4000): Process(7, "/usr/bin/curl")}
    happenings = replay(conversation(), POLICY, programs=programs, on_ask=on_ask)
    assert said(happenings) == [(Answer.ASK, "curl asks")]
    assert kinds(happenings)[:3] == ["Asked", "Said", "Decided"]
    assert (only(happenings).verdict, only(happenings).rule) == (on_ask, "curl asks")


def test_the_default_of_the_direction() -> None:
    happenings = replay(conversation(), POLICY, local=[ip_network("192.0.2.2/32")])
    assert said(happenings) == [(Answer.DROP, "")]
    assert (only(happenings).verdict, only(happenings).rule) == (Verdict.PERMANENT_DROP, "default")


def test_only_a_permanent_verdict_can_answer_questions() -> None:
    with pytest.raises(ValueError, match="ACCEPT is not permanent"):
        Player(ACCEPT, on_ask=Verdict.ACCEPT)


# --- what is no connection ------------------------------------------------------------------------------


def test_packets_of_no_connection_are_counted() -> None:
    here, there = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    later_fragment = bytearray(udp(CLIENT, SERVER, b"x" * 16))
    later_fragment[6:8] = b"\x00\x03"
    player = Player(ACCEPT)
    for data in (build_ip(here, there, Protocol.ICMP, bytes(16)), bytes(later_fragment), b"\x45", b""):
        assert player.packet(SECOND, data) == []
    assert player.ignored == 4
    assert player.finish() == []


@given(st.lists(st.tuples(st.integers(0, 2**40), hostile_packets()), max_size=8))
@settings(max_examples=300 * FUZZ)
def test_hostile_packets(packets: list[tuple[int, bytes]]) -> None:
    player = Player(ACCEPT)
    happenings = [one for time, data in packets for one in player.packet(time, data)] + player.finish()
    check_lives(happenings)
    assert player.ignored <= len(packets)


segments = st.builds(
    tcp,
    st.sampled_from([CLIENT, SERVER]),
    st.sampled_from([CLIENT, SERVER, "192.0.2.3:1"]),
    st.sampled_from(["S", "SA", "A", "PA", "FA", "R", "RA", "SF", ""]),
    st.sampled_from([0, 1, 2**31, 2**32 - 1]),
    st.binary(max_size=4),
)
datagrams = st.builds(
    udp, st.sampled_from([CLIENT, SERVER]), st.sampled_from([CLIENT, SERVER]), st.binary(max_size=4)
)


@given(st.lists(st.tuples(st.sampled_from([0, SECOND, UDP_IDLE]), segments | datagrams), max_size=30))
@settings(max_examples=300 * FUZZ)
def test_any_traffic_makes_whole_lives(steps: list[tuple[int, bytes]]) -> None:
    player, now = Player(ACCEPT), 0
    happenings: list[Happening] = []
    for duration, data in steps:
        now += duration
        happenings += player.packet(now, data)
    happenings += player.finish()
    check_lives(happenings)
    assert player.driver.flows() == []
    assert len(player.driver.packets) == 0
    assert player.driver.statistics.connections_forgotten == player.driver.statistics.events_dropped == 0


def check_lives(happenings: list[Happening]) -> None:
    """Each connection is asked about, answered, perhaps established, and ended: once, in this order."""
    lives: dict[int, list[type]] = {}
    for happening in happenings:
        lives.setdefault(happening.connection.id, []).append(type(happening))
    for life in lives.values():
        assert life in ([Asked, Said, Decided, Ended], [Asked, Said, Decided, Established, Ended])
    for connection in ended(happenings):
        assert 0 < connection.opened <= connection.ended
        assert connection.sent >= 0 <= connection.received


def test_more_connections_than_are_kept_after_their_end() -> None:
    count = ENDED_CAPACITY + 10
    packets = (
        tcp(f"192.0.2.{number >> 12}:{number & 0xFFF}", SERVER, flags)
        for number in range(count)
        for flags in ("S", "R")
    )
    assert len(ended(replay(packets, every=1))) == count


# --- the example ----------------------------------------------------------------------------------------


def example(policy: Policy) -> list[Happening]:
    """The capture in examples/ with its programs, played."""
    path = EXAMPLES / "capture.pcap"
    data = path.read_bytes()
    assert len(data) < 60_000
    capture = Capture(io.BytesIO(data))
    happenings = list(play(capture, policy, programs=read_programs(programs_file(path))))
    assert capture.truncated == ""
    return happenings


def test_the_example_shows_what_there_is_to_see() -> None:
    happenings = example(ACCEPT)
    check_lives(happenings)
    connections = ended(happenings)
    assert all(connection.process.path and connection.process.pid for connection in connections)
    programs = Counter(connection.process.name.partition(".")[0] for connection in connections)
    assert {"curl", "dig", "ssh", "nc"} < set(programs)
    assert any(name.startswith("python") for name in programs)
    assert {(connection.key.protocol, connection.key.version) for connection in connections} == {
        (6, 4),
        (6, 6),
        (17, 4),
        (17, 6),
    }
    assert any(one.key.protocol == Protocol.TCP and not one.established for one in connections), "refused"
    assert sum(connection.received for connection in connections) > 10_000


def test_the_example_with_the_example_policy() -> None:
    answers = Counter(said(example(Policy.load(EXAMPLES / "policy.toml"))))
    assert answers[Answer.ASK, "curl asks before it leaves the house"] > 0
    assert len(answers) > 1


def test_two_captures_of_the_same_are_the_same() -> None:
    records = [(SECOND + number, data) for number, data in enumerate(conversation())]
    capture = Capture(io.BytesIO(pcap(records, nanoseconds=True)))
    assert kinds(play(capture, ACCEPT)) == kinds(replay(conversation(), every=1))
