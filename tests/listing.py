"""Hypothesis strategies for lists: names that meet each other, networks inside of each other, lines good and bad."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from hypothesis import strategies as st

from tidewaiter.lists.entry import BELOW, SELF, ZONE, NameEntry, Network, NetworkEntry, Say

# Few labels, so that names are zones of each other; some as long as the words of the hash.
labels = st.sampled_from(["a", "b", "www", "x-1", "_y", "abcdefg", "abcdefgh", "l" * 63, "com"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 253)
sayings = st.sampled_from([*Say, Say.LISTED | Say.EXEMPT])
entries = st.builds(
    lambda name, said, scope: NameEntry(name, said * scope),
    names,
    sayings,
    st.sampled_from([SELF, BELOW, ZONE]),
)


def _network(version: int, number: int, length: int) -> Network:
    bits = 32 if version == 4 else 128
    number = number >> bits - length << bits - length
    return IPv4Network((number, length)) if version == 4 else IPv6Network((number, length))


def networks(version: int, least: int = 1) -> st.SearchStrategy[Network]:
    """Networks that are often inside of each other, at the ends of all addresses too."""
    bits = 32 if version == 4 else 128
    few = st.sampled_from([0, 1, 2**bits - 1, 2**bits - 2, 10 << bits - 8, (10 << bits - 8) + 5])
    return st.builds(_network, st.just(version), few | st.integers(0, 2**bits - 1), st.integers(least, bits))


def network_entries(version: int) -> st.SearchStrategy[NetworkEntry]:
    """What lists say about networks, the network of all addresses included."""
    return st.builds(NetworkEntry, networks(version, 0), sayings)


# Pieces that lists of all formats are made of, put together right and wrong.
_WORDS = """
0.0.0.0 127.0.0.1 ::1 || @@|| ^ $important $all,x address=/ server=/ / /# # *. . CNAME IN 300 24.0.2.0.192.rpz-ip @ SOA
( ) $ORIGIN example.com Www.Example.COM ads.example.net. bücher.example localhost 192.0.2.0/24 192.0.2.1 10.0.0.1/8
0.0.0.0/0 2001:db8::/32 ::ffff:192.0.2.1 - ; ! [Adblock] ü \ufeff 1 /33 /129 %eth0 : x.1
"""
pieces = st.sampled_from(
    [*_WORDS.split(), " ", "\t", "  ", "CNAME .", " CNAME rpz-passthru.", "$TTL 60", "\r", "\x00", "a" * 64]
)
frames = st.sampled_from(
    [
        "0.0.0.0 {}",
        "||{}^",
        "@@||{}^",
        "address=/{}/",
        "{} CNAME .",
        "*.{} CNAME .",
        "*.{}",
        ".{}",
        "{}",
        " {} # x",
    ]
)
hosts = st.sampled_from(
    [
        "ads.example",
        "24.0.2.0.192.rpz-ip",
        "x.rpz-nsdname",
        "192.0.2.1",
        "xn--p1ai",
        "a.xn--",
        "a.b2",
        "localhost.localdomain",
    ]
)
lines = st.lists(pieces, max_size=6).map("".join) | st.builds(str.format, frames, hosts)
texts = st.lists(lines, max_size=12).map("\n".join)
