"""The words of the policy file."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.key import Protocol
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.rule import PortSpan
from tidewaiter.policy.words import parse_network, parse_path, parse_port, parse_user, quoted


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("443/tcp", PortSpan(443, 443, 6)),
        ("https", PortSpan(443, 443)),
        ("DNS/udp", PortSpan(53, 53, 17)),
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
        ("htps", "'htps' is not a port; did you mean https?"),
        ("", "'' is not a port; write it like 443, 443/tcp, 8000-8100/udp, https or icmp"),
        (-1, "-1 is not a port; write it like 443, 443/tcp, 8000-8100/udp, https or icmp"),
        ("٤٤٣", "'٤٤٣' is not a port; write it like 443, 443/tcp, 8000-8100/udp, https or icmp"),
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
    assert parse_path("/usr/bin/../bin/[") == "/usr/bin/../bin/["


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("curl", "the program 'curl' is not an absolute path; begin it with /"),
        ("", "the program '' is not an absolute path; begin it with /"),
        ("/bin/a\nb", "the program '/bin/a\\nb' has a control character; remove it"),
    ],
)
def test_bad_programs(text: str, message: str) -> None:
    with pytest.raises(BadValueError) as raised:
        parse_path(text)
    assert str(raised.value) == message


@given(
    st.sampled_from([parse_path, parse_network, parse_port, parse_user]),
    st.text() | st.text("0123456789./-:tcpudf%"),
)
def test_any_text_is_read_or_refused_in_one_line(parse: object, text: str) -> None:
    assert callable(parse)
    try:
        parse(text)
    except BadValueError as bad:
        assert str(bad).isprintable()


def test_long_values_are_shown_short() -> None:
    assert quoted("a\n") == "'a\\n'"
    assert len(quoted("x" * 1000)) == 60
