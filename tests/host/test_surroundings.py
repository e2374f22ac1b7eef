"""host/surroundings.py: where a namespace is, told by the kernel; in namespaces of the tests' own."""

from __future__ import annotations

import secrets
import struct
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from livelab import PATIENCE, eventually
from tidewaiter.host import namespace, rtnetlink, surroundings
from tidewaiter.host.rtnetlink import Message, attribute
from tidewaiter.host.surroundings import Surroundings, Watch

pytestmark = pytest.mark.live

GATEWAY, OTHER, GATEWAY6 = ip_address("192.0.2.1"), ip_address("198.51.100.1"), ip_address("2001:db8::1")


class Host:
    """A namespace with two cables, whose other ends are in a second one; nothing is up."""

    def __init__(self, mark: str) -> None:
        self.names = [f"tw-{mark}-{part}" for part in ("here", "there")]
        self.here, self.there = map(namespace.create, self.names)
        for cable in ("one", "two"):
            self.ip(f"link add {cable} type veth peer name {cable} netns {self.names[1]}")
            self.ip(f"link set {cable} up", there=True)

    def ip(self, *lines: str, there: bool = False) -> None:
        for line in lines:
            where = self.names[1 if there else 0]
            enter = ["nsenter", f"--net={namespace.path_of(where)}", "ip"]
            subprocess.run([*enter, *line.split()], check=True, capture_output=True)

    def remove(self) -> None:
        for name in self.names:
            namespace.delete(name)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(secrets.token_hex(3))
    yield made
    made.remove()


class Told:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watch(host: Host, told: Told) -> Iterator[Watch]:
    made = Watch(host.here, told)
    yield made
    made.close()


def becomes(watch: Watch, **expected: object) -> None:
    eventually(
        lambda: all(getattr(watch.now, name) == value for name, value in expected.items()),
        f"{expected} (it is {watch.now})",
        PATIENCE,
    )


def test_an_empty_namespace_is_nowhere(watch: Watch) -> None:
    assert watch.now == Surroundings()


def test_it_is_read_at_once(host: Host, told: Told) -> None:
    host.ip("link set one up", "addr add 192.0.2.7/24 dev one", "route add default via 192.0.2.1")
    watch = Watch(host.here, told)
    watch.close()
    assert (watch.now.interfaces, watch.now.ways) == (("one",), frozenset({("one", GATEWAY)}))
    assert told.count == 0


def test_what_changes_is_told(host: Host, watch: Watch, told: Told) -> None:
    host.ip("link set one up", "addr add 192.0.2.7/24 dev one")
    becomes(watch, interfaces=("one",), gateways=())
    host.ip("route add default via 192.0.2.1")
    becomes(watch, gateways=(GATEWAY,))
    host.ip("link set two up", "addr add 198.51.100.7/24 dev two", "route add 128.0.0.0/1 via 198.51.100.1")
    becomes(watch, interfaces=("one", "two"), ways={("one", GATEWAY), ("two", OTHER)})
    host.ip("addr add 2001:db8::7/64 dev one nodad", "route add default via 2001:db8::1")
    becomes(watch, ways={("one", GATEWAY), ("two", OTHER), ("one", GATEWAY6)})
    host.ip("link set one down", there=True)  # the carrier goes
    eventually(lambda: watch.now.interfaces == ("two",), "its cable is out", PATIENCE)
    eventually(lambda: watch.now.gateways == (OTHER,), "what goes by it leads nowhere", PATIENCE)
    host.ip("link del two")
    becomes(watch, interfaces=(), ways=set())
    assert told.count >= 5


def test_of_other_routes_it_is_told_that_they_have_changed_and_nothing_is_read(
    host: Host, watch: Watch, told: Told
) -> None:
    host.ip("link set one up", "addr add 192.0.2.7/24 dev one")
    becomes(watch, interfaces=("one",))
    before, reads = told.count, []
    read = watch._read

    def counted() -> Surroundings:
        reads.append(1)
        return read()

    watch._read = counted  # type: ignore[method-assign]
    turns = watch.now.turns
    for number in range(20):
        host.ip(f"route add 203.0.113.{number}/32 via 192.0.2.1")
    becomes(watch, turns=turns + 20)
    assert 1 <= told.count - before <= 20
    assert reads == []
    before = told.count
    host.ip("route add default via 192.0.2.1")
    becomes(watch, gateways=(GATEWAY,), turns=turns + 21)
    assert (told.count - before, len(reads)) == (1, 1)
    host.ip("rule add to 203.0.113.0/24 lookup 51820", "-6 rule add to 2001:db8::/32 lookup 51820")
    becomes(watch, turns=turns + 23)


def test_a_route_of_several_ways_and_another_table(host: Host, watch: Watch) -> None:
    host.ip(
        "link set one up",
        "addr add 192.0.2.7/24 dev one",
        "link set two up",
        "addr add 198.51.100.7/24 dev two",
    )
    host.ip("route add default nexthop via 192.0.2.1 dev one nexthop via 198.51.100.1 dev two")
    becomes(watch, ways={("one", GATEWAY), ("two", OTHER)})
    host.ip("route del default", "route add default via 198.51.100.1 table 51820")
    becomes(watch, ways={("two", OTHER)})


def test_a_burst_is_read_once_it_is_over(host: Host, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "SETTLED", 5.0)
    monkeypatch.setattr(surroundings, "LONGEST", 0.0)  # or when it does not end
    watch = Watch(host.here, told)
    try:
        host.ip("link set one up")
        becomes(watch, interfaces=("one",))
    finally:
        watch.close()


def test_what_cannot_be_read_stays_as_it_was(
    host: Host, watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Surroundings:
        raise OSError(11, "the network changed")

    with monkeypatch.context() as patched:
        patched.setattr(watch, "_read", fails)
        host.ip("link set one up")
        eventually(lambda: "taken for what it was" in caplog.text, "it is said", PATIENCE)
    assert watch.now.interfaces == ()
    host.ip("link set two up")
    becomes(watch, interfaces=("one", "two"))


def test_nothing_is_left_open(host: Host) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    watch = Watch(host.here, lambda: None)
    watch.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert "tidewaiter-surroundings" not in {thread.name for thread in threading.enumerate()}


def test_a_namespace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watch(tmp_path / "none", lambda: None)


def test_the_name_of_the_wifi_network(host: Host, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel with a device would answer (tests/host/test_wifi.py): no machine of tests has one."""
    general = struct.pack("=BBxx", 7, 1)
    answers = {
        16: [general + attribute(1, struct.pack("=H", 28))],
        28: [general + attribute(4, b"wlan1\0"), general + attribute(52, b"Home")],
    }
    ask = surroundings._ask
    monkeypatch.setattr(
        surroundings,
        "_ask",
        lambda channel, asking, kind: (
            iter(answers[kind]) if channel is watch._generic else ask(channel, asking, kind)
        ),
    )
    host.ip("link set one up")
    becomes(watch, wifi="Home")


def test_what_concerns_us() -> None:
    default, less = b"\x02\x00" + bytes(10), b"\x02\x18" + bytes(10)
    local, cached = b"\x02\x20\0\0\xff" + bytes(7), b"\x0a\x80" + bytes(7) + b"\x02" + bytes(2)
    kinds = [
        (rtnetlink.Kind.NEW_LINK, b"", True, False), (rtnetlink.Kind.DEL_LINK, b"", True, False),
        (rtnetlink.Kind.NEW_ROUTE, default, True, True), (rtnetlink.Kind.DEL_ROUTE, less, False, True),
        (rtnetlink.Kind.NEW_ROUTE, local, False, False), (rtnetlink.Kind.NEW_ROUTE, cached, False, False),
        (rtnetlink.Kind.NEW_RULE, b"", False, True), (rtnetlink.Kind.DONE, b"", False, False), (20, b"", False, False),
    ]  # fmt: skip
    for kind, body, concerns, turns in kinds:
        message = Message(kind, 0, 0, body)
        assert (surroundings._concerns(message), surroundings._turns(message)) == (concerns, turns), message
