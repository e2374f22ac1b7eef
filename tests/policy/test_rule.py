"""The words of the policy file, and what a rule is held against."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.process import Process
from tidewaiter.policy.rule import (
    Answer,
    BadValueError,
    Facts,
    PortSpan,
    Rule,
    parse_network,
    parse_port,
    parse_program,
    parse_user,
    programs_on_disk,
    quoted,
)

KEY = ConnectionKey(Protocol.TCP, ip_address("10.0.0.1"), 40000, ip_address("192.0.2.1"), 443)


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("443/tcp", PortSpan(443, 443, 6)),
        ("53", PortSpan(53, 53)),
        (53, PortSpan(53, 53)),
        (0, PortSpan(0, 0)),
        ("8000-8100", PortSpan(8000, 8100)),
        ("8000-8100/udp", PortSpan(8000, 8100, 17)),
        ("0-65535/sctp", PortSpan(0, 65535, 132)),
        ("tcp", PortSpan(0, 65535, 6)),
        ("udp", PortSpan(0, 65535, 17)),
        ("icmp", PortSpan(0, 65535, 1)),
        ("icmpv6", PortSpan(0, 65535, 58)),
        ("sctp", PortSpan(0, 65535, 132)),
    ],
)
def test_ports(value: str | int, span: PortSpan) -> None:
    assert parse_port(value) == span


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https", "'https' is not a port; write it like 443, 443/tcp, 8000-8100/udp or icmp"),
        ("", "'' is not a port; write it like 443, 443/tcp, 8000-8100/udp or icmp"),
        (-1, "-1 is not a port; write it like 443, 443/tcp, 8000-8100/udp or icmp"),
        ("٤٤٣", "'٤٤٣' is not a port; write it like 443, 443/tcp, 8000-8100/udp or icmp"),
        ("65536", "the port 65536 is too large; write 0 to 65535"),
        ("80-70000", "the port 70000 is too large; write 0 to 65535"),
        ("8100-8000", "the ports 8100-8000 run backwards; write 8000-8100"),
        ("443/icmp", "'icmp' is no protocol with ports; write tcp, udp or sctp"),
        ("443/quic", "'quic' is no protocol with ports; write tcp, udp or sctp"),
        ("443/", "'' is no protocol with ports; write tcp, udp or sctp"),
    ],
)
def test_bad_ports(value: str | int, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        parse_port(value)
    assert str(raised.value) == message


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(["", "/tcp", "/udp", "/sctp"]))
def test_every_span_of_ports_is_read(one: int, other: int, protocol: str) -> None:
    low, high = sorted((one, other))
    number = Protocol[protocol[1:].upper()] if protocol else None
    assert parse_port(f"{low}-{high}{protocol}") == PortSpan(low, high, number)


def test_a_port_without_protocol_means_those_that_have_ports() -> None:
    assert PortSpan(53, 53).protocols == (6, 17, 132)
    assert PortSpan(53, 53, 17).protocols == (17,)


@pytest.mark.parametrize("span", [(-1, 5, None), (5, 4, None), (0, 65536, None), (0, 1, 256), (0, 1, -1)])
def test_impossible_spans_are_refused(span: tuple[int, int, int | None]) -> None:
    with pytest.raises(ValueError, match="is not a"):
        PortSpan(*span)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("fd00::/8", "fd00::/8"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert parse_network(text) == ip_network(network)


HOW = "write it like 192.0.2.1, 10.0.0.0/8, 2001:db8::1 or fd00::/8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "10.0.0.5/8",
            "'10.0.0.5/8' has bits set after its first 8; write 10.0.0.0/8, or 10.0.0.5 for the one address",
        ),
        (
            "fd00::1/64",
            "'fd00::1/64' has bits set after its first 64; write fd00::/64, or fd00::1 for the one address",
        ),
        ("example.com", f"'example.com' is not an address or a network; {HOW}"),
        ("", f"'' is not an address or a network; {HOW}"),
        ("10.0.0.0/33", f"'10.0.0.0/33' is not an address or a network; {HOW}"),
        ("10.0.0.0/", f"'10.0.0.0/' is not an address or a network; {HOW}"),
        ("10.0.0.0/255.0.0.0", f"'10.0.0.0/255.0.0.0' is not an address or a network; {HOW}"),
        ("fe80::1%eth0", f"'fe80::1%eth0' is not an address or a network; {HOW}"),
        ("::ffff:10.0.0.0/104", "'::ffff:10.0.0.0/104' is IPv4 written as IPv6; write 10.0.0.0/8"),
    ],
)
def test_bad_networks(text: str, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        parse_network(text)
    assert str(raised.value) == message


@given(st.ip_addresses(), st.integers(0, 128))
def test_host_bits_get_a_remedy_that_works(address: object, length: int) -> None:
    text = f"{address}/{min(length, 32 if '.' in str(address) and ':' not in str(address) else 128)}"
    try:
        assert parse_network(text) == ip_network(text)
    except BadValueError as bad:
        remedy = bad.remedy.removeprefix("write ").partition(",")[0]
        assert parse_network(remedy) == ip_network(remedy)


def test_users() -> None:
    def find(name: str) -> int:
        return {"anna": 1000}[name]

    assert parse_user(0, find) == 0
    assert parse_user("1000", find) == 1000
    assert parse_user("anna", find) == 1000
    assert parse_user("root") == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "-1 is not a user id; write 0 to 4294967294"),
        ("4294967295", "4294967295 is not a user id; write 0 to 4294967294"),
        (
            "no such user",
            "there is no user 'no such user'; write the name of a user of this host, or the number",
        ),
        ("a\0b", "there is no user 'a\\x00b'; write the name of a user of this host, or the number"),
    ],
)
def test_bad_users(value: str | int, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        parse_user(value)
    assert str(raised.value) == message


def test_programs_are_kept_as_written() -> None:
    assert parse_program("/usr/bin/../bin/[") == "/usr/bin/../bin/["


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("curl", "the program 'curl' is not an absolute path; begin it with /"),
        ("", "the program '' is not an absolute path; begin it with /"),
        ("/opt/", "the program '/opt/' is a directory; name the executable itself"),
        ("/opt/*/x", "the program '/opt/*/x' is a pattern; name each executable by its path"),
        ("/bin/a\nb", "the program '/bin/a\\nb' has a control character; remove it"),
    ],
)
def test_bad_programs(text: str, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        parse_program(text)
    assert str(raised.value) == message


@given(
    st.sampled_from([parse_program, parse_network, parse_port, parse_user]),
    st.text() | st.text("0123456789./-:tcpudf%"),
)
def test_any_text_is_read_or_refused_in_one_line(parse: object, text: str) -> None:
    assert callable(parse)
    try:
        parse(text)
    except BadValueError as bad:
        assert str(bad).isprintable()


def test_links_are_followed_on_disk(tmp_path: Path) -> None:
    real, link = tmp_path / "vim.basic", tmp_path / "vi"
    real.touch()
    link.symlink_to(real.name)
    rule = Rule(name="vi", answer=Answer.BLOCK, programs=(str(link), "/not/there"))
    assert programs_on_disk(rule) == (str(link), os.path.realpath(real), "/not/there")


def test_facts_come_from_a_connection() -> None:
    connection = Connection(1, KEY, Direction.OUT, Process(7, path="/usr/bin/curl", uid=1000))
    facts = Facts.of(connection)
    assert facts == Facts(
        "/usr/bin/curl", 1000, Direction.OUT, 6, KEY.local, KEY.local_port, KEY.remote, KEY.remote_port
    )


@pytest.mark.parametrize(
    ("direction", "port"), [(Direction.OUT, 443), (Direction.IN, 40000), (Direction.FORWARD, 443)]
)
def test_the_port_that_counts(direction: Direction, port: int) -> None:
    assert Facts.of(Connection(1, KEY, direction)).port == port


def test_long_values_are_shown_short() -> None:
    assert quoted("a\n") == "'a\\n'"
    assert len(quoted("x" * 1000)) == 60
