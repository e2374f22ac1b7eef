"""host/diag.py: the codec against bytes of known meaning, and the whole against the live kernel."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host import diag, namespace
from tidewaiter.host.diag import Answer, MalformedReply, OpenSocket, State, destroy, open_sockets
from tidewaiter.model.key import Address, Protocol

SO_COOKIE = 57
DUMP_INTERRUPTED = 0x10
TCP_LISTENER = OpenSocket(
    Protocol.TCP, State.LISTEN, IPv4Address("0.0.0.0"), 80, IPv4Address("0.0.0.0"), 0, 7, 9, 0
)


def message(kind: int, body: bytes, *, sequence: int = 1, flags: int = 2) -> bytes:
    """A netlink message, with the padding behind it."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)


def done(code: int = 0, **options: int) -> bytes:
    return message(3, struct.pack("=i", code), **options)


def failure(code: int) -> bytes:
    return message(2, struct.pack("=i", -code) + bytes(16))


def told(item: OpenSocket, *, mapped: bool = False) -> bytes:
    """The message with which the kernel tells of a socket, with two attributes behind (RTA 8 and 15)."""

    def bytes_of(address: Address) -> bytes:
        if mapped:
            return bytes(16) if address.is_unspecified else bytes(10) + b"\xff\xff" + address.packed
        return address.packed.ljust(16, b"\0")

    body = struct.pack("=BBBB", 10 if mapped or item.local.version == 6 else 2, item.state, 2, 3)
    body += (
        struct.pack("!HH", item.local_port, item.remote_port) + bytes_of(item.local) + bytes_of(item.remote)
    )
    body += struct.pack("=IQ", item.interface, item.cookie)
    body += struct.pack("=IIIII", 1000, 11, 12, item.uid, item.inode)
    return message(20, body + struct.pack("=HHI", 8, 8, 0) + struct.pack("=HHB3x", 5, 15, 0))


def sockets_of(*addresses: st.SearchStrategy[Address]) -> st.SearchStrategy[OpenSocket]:
    def build(family: st.SearchStrategy[Address]) -> st.SearchStrategy[OpenSocket]:
        u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
        cookie = st.integers(0, 2**64 - 1)
        state = st.sampled_from(State)
        return st.builds(OpenSocket, st.just(6), state, family, u16, family, u16, cookie, u32, u32, u32)

    return st.one_of([build(family) for family in addresses])


v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6, network="2000::/3")


def test_the_request_for_all_sockets() -> None:
    expected = struct.pack("=IHHII", 72, 20, 0x301, 5, 0)  # linux/netlink.h: NLM_F_REQUEST | NLM_F_DUMP
    expected += struct.pack("=BBBBI", socket.AF_INET6, socket.IPPROTO_UDP, 0, 0, 0x1FFE) + bytes(48)
    assert diag.encode_dump(socket.AF_INET6, Protocol.UDP, 5) == expected


def test_the_request_to_end_a_socket() -> None:
    local, remote = IPv6Address("fe80::1"), IPv6Address("fe80::2")
    item = OpenSocket(Protocol.TCP, 1, local, 4000, remote, 443, 0x0102030405060708, 9, 0, interface=3)
    expected = struct.pack("=IHHII", 72, 21, 0x5, 6, 0)  # NLM_F_REQUEST | NLM_F_ACK
    expected += struct.pack("=BBBBI", 10, 6, 0, 0, 0x1FFE) + struct.pack("!HH", 4000, 443)
    expected += local.packed + remote.packed + struct.pack("=III", 3, 0x05060708, 0x01020304)
    assert diag.encode_destroy(item, 6) == expected


@given(st.lists(sockets_of(v4, v6), max_size=5), st.booleans())
def test_sockets_are_read_as_they_were_told(items: list[OpenSocket], at_once: bool) -> None:
    answer = Answer(Protocol.TCP, 1)
    parts = [*map(told, items), done()]
    for part in [b"".join(parts)] if at_once else parts:
        assert not answer.done
        answer.feed(part)
    assert answer.done
    assert (answer.sockets, answer.error, answer.interrupted) == (items, 0, False)


@given(sockets_of(v4))
def test_an_ipv4_connection_of_an_ipv6_socket_has_ipv4_addresses(item: OpenSocket) -> None:
    answer = Answer(Protocol.TCP, 1)
    answer.feed(told(item, mapped=True))
    (found,) = answer.sockets
    if item.local.is_unspecified:  # "::" and "::": a dual-stack socket bound to nothing, or nonsense
        assert found.local == IPv6Address("::")
    else:
        assert found == item


def test_other_requests_and_other_kinds_are_passed_over() -> None:
    answer = Answer(Protocol.TCP, 2)
    answer.feed(told(TCP_LISTENER) + message(1, b"", sequence=2) + message(99, b"x", sequence=2) + failure(1))
    assert answer == Answer(Protocol.TCP, 2)


def test_nothing_counts_after_the_end() -> None:
    answer = Answer(Protocol.TCP, 1)
    answer.feed(done() + told(TCP_LISTENER) + failure(errno.EPERM))
    assert answer == Answer(Protocol.TCP, 1, done=True)


@pytest.mark.parametrize("reply", [failure(errno.EPERM), done(-errno.EPERM)])
def test_a_refusal_is_an_error_and_the_end(reply: bytes) -> None:
    answer = Answer(Protocol.TCP, 1)
    answer.feed(reply)
    assert (answer.done, answer.error) == (True, errno.EPERM)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0" * 15, "15 bytes are too few for a netlink message"),
        (struct.pack("=IHHII", 15, 3, 0, 1, 0), "a netlink message of 15 bytes in 16 bytes"),
        (struct.pack("=IHHII", 17, 3, 0, 1, 0), "a netlink message of 17 bytes in 16 bytes"),
        (message(20, bytes(71)), "71 bytes are too few for a socket, which has 72"),
        (message(20, bytes(72)), "a socket of address family 0, which was not asked for"),
        (message(3, b"\0\0\0"), "3 bytes are too few for a netlink result"),
    ],
)
def test_what_does_not_hold_together_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedReply, match=f"^{said}$"):
        Answer(Protocol.TCP, 1).feed(data)


@given(st.binary(max_size=300))
def test_hostile_bytes(data: bytes) -> None:
    answer = Answer(Protocol.TCP, 1)
    try:
        answer.feed(data)
    except MalformedReply as error:
        assert str(error)


@given(sockets_of(v4, v6), st.data())
def test_hostile_changes(item: OpenSocket, data: st.DataObject) -> None:
    told_bytes = bytearray(told(item) + done())
    for _ in range(data.draw(st.integers(1, 4))):
        told_bytes[data.draw(st.integers(0, len(told_bytes) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(told_bytes[: data.draw(st.integers(0, len(told_bytes)))])
    answer = Answer(Protocol.TCP, 1)
    try:
        answer.feed(cut)
    except MalformedReply as error:
        assert str(error)
    assert len(answer.sockets) <= 1


@pytest.mark.parametrize(
    ("protocol", "state", "remote", "connected", "listening"),
    [
        (Protocol.TCP, State.LISTEN, ("0.0.0.0", 0), False, True),
        (Protocol.TCP, State.ESTABLISHED, ("192.0.2.1", 80), True, False),
        (Protocol.TCP, State.SYN_SENT, ("192.0.2.1", 80), True, False),
        (Protocol.TCP, State.CLOSE, ("0.0.0.0", 0), False, False),
        (Protocol.UDP, State.CLOSE, ("0.0.0.0", 0), False, True),
        (Protocol.UDP, State.ESTABLISHED, ("192.0.2.1", 53), True, False),
        (Protocol.UDP, State.ESTABLISHED, ("192.0.2.1", 0), True, False),
    ],
)
def test_who_has_a_peer_and_who_waits_for_one(
    protocol: Protocol, state: State, remote: tuple[str, int], connected: bool, listening: bool
) -> None:
    address, port = ip_address(remote[0]), remote[1]
    item = OpenSocket(protocol, state, IPv4Address("0.0.0.0"), 5000, address, port, 1, 1, 0)
    assert (item.connected, item.listening) == (connected, listening)


class Script:
    """A netlink socket that answers each request with the next reads of a script."""

    def __init__(self, *answers: list[tuple[bytes, int, int]]) -> None:
        self.answers = iter(answers)
        self.requests: list[bytes] = []

    def sendto(self, request: bytes, address: tuple[int, int]) -> None:
        self.requests.append(request)
        self.reads = iter(next(self.answers))

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        data, flags, sender = next(self.reads)
        return data, [], flags, (sender, 0)


def said(data: bytes, *, flags: int = 0, sender: int = 0) -> tuple[bytes, int, int]:
    return data, flags, sender


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    def play(*answers: list[tuple[bytes, int, int]]) -> Script:
        script = Script(*answers)

        @contextmanager
        def opened(namespace: Path | None) -> Iterator[Script]:
            yield script

        monkeypatch.setattr(diag, "_open", opened)
        return script

    return play


def test_an_interrupted_dump_is_done_again(play: Callable[..., Script]) -> None:
    interrupted = [said(done(flags=2 | DUMP_INTERRUPTED))]
    again = [said(told(TCP_LISTENER).replace(b"\x01\0\0\0", b"\x02\0\0\0", 1)), said(done(sequence=2))]
    rest = [[said(done())]] * 3
    script = play(interrupted, again, *rest)
    assert open_sockets() == [TCP_LISTENER]
    assert len(script.requests) == 5


def test_a_dump_that_is_always_interrupted_is_an_error(play: Callable[..., Script]) -> None:
    script = play(*([said(done(sequence=n, flags=2 | DUMP_INTERRUPTED))] for n in (1, 2, 3, 4)))
    with pytest.raises(BlockingIOError, match="the sockets changed during each of 4 attempts"):
        open_sockets()
    assert len(script.requests) == 4


def test_a_socket_that_moved_during_the_dump_is_listed_once(play: Callable[..., Script]) -> None:
    moved = replace(TCP_LISTENER, state=State.ESTABLISHED, remote_port=9)
    play([said(told(TCP_LISTENER)), said(told(moved) + done())], *[[said(done())]] * 3)
    assert open_sockets() == [moved]


def test_only_the_kernel_is_believed(play: Callable[..., Script]) -> None:
    play([said(told(TCP_LISTENER) + done(), sender=4711), said(done())], *[[said(done())]] * 3)
    assert open_sockets() == []


def test_a_message_that_was_cut_is_an_error(play: Callable[..., Script]) -> None:
    play([said(told(TCP_LISTENER), flags=socket.MSG_TRUNC)])
    with pytest.raises(OSError, match="longer than 65536 bytes"):
        open_sockets()


def test_a_table_without_end_is_an_error(
    play: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diag, "MAX_SOCKETS", 2)
    play([said(told(TCP_LISTENER) * 3)])
    with pytest.raises(OSError, match="more than 2 sockets are open"):
        open_sockets()


def test_a_kernel_without_sock_diag_is_told_in_a_sentence(play: Callable[..., Script]) -> None:
    play([said(failure(errno.ENOENT))])
    with pytest.raises(FileNotFoundError, match="open tcp sockets cannot be listed: No such file") as caught:
        open_sockets()
    assert "modprobe tcp_diag udp_diag" in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_ending_what_is_gone(play: Callable[..., Script], code: int) -> None:
    play([said(failure(code))])
    assert destroy(TCP_LISTENER) is False


def test_ending_that_is_refused(play: Callable[..., Script]) -> None:
    play([said(failure(errno.EPERM))])
    with pytest.raises(PermissionError, match=r"the tcp socket 0\.0\.0\.0:80 cannot be ended: Operation not"):
        destroy(TCP_LISTENER)


def test_a_namespace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_sockets(tmp_path / "none")


def of(live: socket.socket, items: list[OpenSocket]) -> OpenSocket:
    """The listed socket with the cookie that the kernel tells of a live one."""
    (cookie,) = struct.unpack("=Q", live.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    (item,) = [item for item in items if item.cookie == cookie]
    return item


def test_our_own_sockets_without_any_privilege() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        item = of(server, open_sockets())
        assert (item.protocol, item.local, item.local_port) == (
            6,
            IPv4Address("127.0.0.1"),
            server.getsockname()[1],
        )
        assert (item.inode, item.uid) == (os.fstat(server.fileno()).st_ino, os.geteuid())
        assert item.listening


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A network namespace of its own, with its loopback up."""
    name = f"tw-test-{secrets.token_hex(4)}"
    path = namespace.create(name)
    try:
        with namespace.popen(["ip", "link", "set", "lo", "up"], namespace=path) as up:
            assert up.wait() == 0
        yield path
    finally:
        namespace.delete(name)


@pytest.fixture
def hold(place: Path) -> Iterator[Callable[[Callable[[], socket.socket]], socket.socket]]:
    """Makes sockets inside the namespace that are closed after the test."""
    with ExitStack() as stack:
        yield lambda make: stack.enter_context(namespace.run_inside(place, make))


Hold = Callable[[Callable[[], socket.socket]], socket.socket]


def server(family: int, address: str, *, dual: bool = False) -> Callable[[], socket.socket]:
    return lambda: socket.create_server((address, 0), family=family, dualstack_ipv6=dual, backlog=200)


def client(address: str, port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection((address, port), timeout=5)


def datagram(family: int, bound: str, peer: tuple[str, int] | None = None) -> Callable[[], socket.socket]:
    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((bound, 0))
        if peer is not None:
            made.connect(peer)
        return made

    return make


@pytest.mark.live
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_tcp_connection_and_its_server(place: Path, hold: Hold, family: int, address: str) -> None:
    waiting = hold(server(family, address))
    port = waiting.getsockname()[1]
    near = hold(client(address, port))
    far = hold(lambda: waiting.accept()[0])
    items = open_sockets(place)
    assert of(waiting, items).listening
    assert of(waiting, items).state == State.LISTEN
    ours, theirs = of(near, items), of(far, items)
    assert (ours.local, ours.remote) == (ip_address(address), ip_address(address))
    assert (ours.local_port, ours.remote_port) == (near.getsockname()[1], port)
    assert (theirs.local_port, theirs.remote_port) == (port, near.getsockname()[1])
    for item, live in ((ours, near), (theirs, far)):
        assert item.protocol == Protocol.TCP
        assert item.state == State.ESTABLISHED
        assert item.connected
        assert not item.listening
        assert item.inode == os.fstat(live.fileno()).st_ino
    assert not {item.cookie for item in items} & {item.cookie for item in open_sockets()}


@pytest.mark.live
def test_a_dual_stack_socket(place: Path, hold: Hold) -> None:
    waiting = hold(server(socket.AF_INET6, "::", dual=True))
    port = waiting.getsockname()[1]
    hold(client("127.0.0.1", port))
    far = hold(lambda: waiting.accept()[0])
    items = open_sockets(place)
    assert of(waiting, items).local == IPv6Address("::")
    accepted = of(far, items)
    assert (accepted.local, accepted.remote) == (IPv4Address("127.0.0.1"), IPv4Address("127.0.0.1"))
    assert destroy(accepted, place)
    with pytest.raises(ConnectionAbortedError):
        far.recv(1)


@pytest.mark.live
@pytest.mark.parametrize(
    ("family", "bound", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_udp_socket_with_and_without_a_peer(
    place: Path, hold: Hold, family: int, bound: str, shown: str
) -> None:
    waiting = hold(datagram(family, bound))
    item = of(waiting, open_sockets(place))
    assert (item.protocol, item.local) == (Protocol.UDP, ip_address(shown))
    assert item.remote == type(item.local)(0)
    assert item.listening
    assert not item.connected
    to = bound if not item.local.is_unspecified else {4: "127.0.0.1", 6: "::1"}[item.local.version]
    peer = hold(datagram(family, to, (to, item.local_port)))
    item = of(peer, open_sockets(place))
    assert item.connected
    assert not item.listening
    assert (item.remote, item.remote_port) == (
        ip_address(to.removeprefix("::ffff:")),
        waiting.getsockname()[1],
    )


@pytest.mark.live
def test_every_socket_of_a_long_list_is_there(place: Path, hold: Hold) -> None:
    waiting = hold(server(socket.AF_INET, "127.0.0.1"))
    near = [hold(client("127.0.0.1", waiting.getsockname()[1])) for _ in range(150)]
    far = [hold(lambda: waiting.accept()[0]) for _ in near]
    datagrams = [hold(datagram(socket.AF_INET6, "::1")) for _ in range(300)]
    items = open_sockets(place)
    for live in (*near, *far, *datagrams):
        assert of(live, items).inode == os.fstat(live.fileno()).st_ino
    listed = namespace.run_inside(place, lambda: subprocess.check_output(["ss", "-Htuan"], text=True))
    ours = {(item.protocol == 6, str(item.local), item.local_port, item.remote_port) for item in items}
    theirs = set()
    for line in listed.splitlines():
        kind, _, _, _, local, remote = line.split()[:6]
        (address, _, port), to = local.rpartition(":"), remote.rpartition(":")[2]
        theirs.add(
            (kind == "tcp", address.strip("[]").replace("*", "::"), int(port), int(to.replace("*", "0")))
        )
    assert ours == theirs


@pytest.mark.live
def test_ending_a_tcp_connection(place: Path, hold: Hold) -> None:
    waiting = hold(server(socket.AF_INET6, "::1"))
    near = hold(client("::1", waiting.getsockname()[1]))
    far = hold(lambda: waiting.accept()[0])
    item = of(near, open_sockets(place))
    assert destroy(item, place) is True
    with pytest.raises(ConnectionAbortedError):
        near.recv(1)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    assert destroy(item, place) is False
    assert of(waiting, open_sockets(place)).listening


@pytest.mark.live
@pytest.mark.parametrize(("family", "bound"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")])
def test_ending_a_udp_socket(place: Path, hold: Hold, family: int, bound: str) -> None:
    live = hold(datagram(family, bound))
    assert destroy(of(live, open_sockets(place)), place) is True
    with pytest.raises(ConnectionAbortedError):
        live.recv(1, socket.MSG_DONTWAIT)


@pytest.mark.live
def test_another_socket_at_the_same_place_is_not_ended(place: Path, hold: Hold) -> None:
    live = hold(datagram(socket.AF_INET, "127.0.0.1"))
    item = of(live, open_sockets(place))
    assert destroy(replace(item, cookie=item.cookie + 1), place) is False
    assert of(live, open_sockets(place)) == item


@pytest.mark.live
def test_a_socket_bound_to_a_device_is_found_to_be_ended(place: Path, hold: Hold) -> None:
    def make() -> socket.socket:
        made = datagram(socket.AF_INET, "127.0.0.1")()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        return made

    item = of(hold(make), open_sockets(place))
    assert item.interface == 1
    assert destroy(item, place) is True
