"""The totals of an `end` event are the payload bytes that the program itself has counted, in whatever way it sends."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from acceptance.harness import Guard, Line, endpoint, guard, write
from conftest import DEMAND
from livelab import PATIENCE, agent_in, eventually, new_name
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

MEGABYTES = 4 << 20
DATAGRAMS = 40 * 16 * 1200
"""Bytes in whole batches of counted.c."""

ECHO = 7
IPPROTO_MPTCP = 262  # linux/in.h
EXPERIMENTAL = 253  # RFC 3692 section 2.1
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
BOTH = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
MODES = {
    "enforce": [],
    "observe": ["--mode", "observe"],
    # each connection is held until nobody has answered
    "held": ["--timeout", "0.05", "--on-timeout", "accept"],
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that sends, receives and counts."""
    program = tmp_path_factory.mktemp("counted") / "counted"
    source = Path(__file__).with_name("counted.c")
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
    return program


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture(scope="module", params=MODES)
def guarded(
    place: World, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guard]:
    mode = str(request.param)
    word = "ask" if mode == "held" else "accept"
    policy = write(
        tmp_path_factory.mktemp("policy") / "policy.toml", f'[default]\nout = "{word}"\nin = "{word}"\n'
    )
    with guard(place, new_name(place), "--policy", policy, *MODES[mode]) as one:
        yield one
        one.stop()
        stats = one.about(event="stats")[-1]
        assert stats["kernel_events_lost"] == stats["events_dropped"] == 0


def address_of(places: plan.Pair, family: int) -> str:
    return places.v4 if family == 4 else places.v6


def says(guarded: Guard, pid: int, port: int, **fields: object) -> Line:
    """The `end` of the one connection that a process had at a port of its own."""

    def found() -> list[Line]:
        lines = guarded.about(event="end", pid=pid, **fields)
        return [line for line in lines if line["local"].endswith(f":{port}")]

    eventually(lambda: bool(found()), f"the end of port {port} of process {pid}", PATIENCE)
    (line,) = found()
    return line


def check(guarded: Guard, pid: int, said: str, least: int, **fields: object) -> Line:
    """Compares what a program has printed of its connection with the `end` event."""
    port, sent, received = map(int, said.split())
    assert sent >= least
    line = says(guarded, pid, port, **fields)
    assert line["sent"] == sent
    if line["protocol"] == "udp":  # what came while the program's buffer was full was received all the same
        assert 0 <= line["received"] - received <= line["received"] // 100
    else:
        assert line["received"] == received
    return line


def run(place: World, *words: str | Path | int) -> tuple[int, str]:
    """A program in the client, to its end: its process id and what it said."""
    with place.popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    return process.pid, output


@contextmanager
def serving(
    place: World, serve: Callable[[socket.socket], object], family: int, protocol: int = socket.IPPROTO_TCP
) -> Iterator[int]:
    """A TCP server at the lab's peer for one connection; the port."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    listener = place.in_server(lambda: socket.socket(kind, socket.SOCK_STREAM, protocol))
    listener.settimeout(PATIENCE)
    listener.bind((address_of(plan.ECHO, family), 0))
    listener.listen(1)

    def accept() -> None:
        with listener.accept()[0] as peer:
            serve(peer)

    thread = threading.Thread(target=accept)
    thread.start()
    with listener:
        yield listener.getsockname()[1]
        thread.join(PATIENCE)


def echo(peer: socket.socket) -> None:
    while data := peer.recv(1 << 16):
        peer.sendall(data)


def keep(peer: socket.socket) -> bytes:
    """Everything until the other side ends."""
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


# --- streams -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("way", ["write", "sendfile", "splice", "sendmmsg", "zerocopy", "io_uring", "reset"])
def test_tcp(place: World, guarded: Guard, counted: Path, family: int, way: str) -> None:
    """§2.1: `reset`: the program ends it with RST (SO_LINGER), when all has come."""
    need_io_uring(way)
    pid, said = run(place, counted, way, "connect", address_of(plan.ECHO, family), ECHO, MEGABYTES)
    line = check(guarded, pid, said, MEGABYTES, protocol="tcp", direction="out")
    assert line["received"] == MEGABYTES
    assert line["remote"] == endpoint(address_of(plan.ECHO, family), ECHO)


@BOTH
@pytest.mark.parametrize("way", ["write", "sendfile", "splice", "io_uring"])
def test_tcp_that_comes_in(place: World, guarded: Guard, counted: Path, family: int, way: str) -> None:
    need_io_uring(way)
    own = address_of(plan.CLIENT, family)
    command = [str(counted), way, "accept", own, "0", str(MEGABYTES)]
    with place.popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().removeprefix("port "))
        with place.in_server(lambda: socket.create_connection((own, port), PATIENCE)) as peer:
            echo(peer)
        said, _ = process.communicate(timeout=PATIENCE)
    line = check(guarded, process.pid, said, MEGABYTES, protocol="tcp", direction="in")
    assert line["received"] == MEGABYTES


@BOTH
def test_a_half_closed_connection_goes_on(place: World, guarded: Guard, counted: Path, family: int) -> None:
    with serving(place, lambda peer: peer.sendall(keep(peer)), family) as port:
        pid, said = run(place, counted, "half", "connect", address_of(plan.ECHO, family), port, MEGABYTES)
    assert check(guarded, pid, said, MEGABYTES)["received"] == MEGABYTES


def test_one_that_the_peer_has_half_closed_goes_on(place: World, guarded: Guard, counted: Path) -> None:
    heard: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        peer.sendall(bytes(1000))
        peer.shutdown(socket.SHUT_WR)
        heard.append(keep(peer))

    with serving(place, serve, 4) as port:
        pid, said = run(place, counted, "write", "connect", plan.ECHO.v4, port, MEGABYTES)
    assert check(guarded, pid, said, MEGABYTES)["received"] == 1000
    assert len(heard[0]) == MEGABYTES


@BOTH
def test_what_is_sent_after_the_program_has_gone(
    place: World, guarded: Guard, counted: Path, family: int
) -> None:
    """Most of it waits in the kernel when the program ends; the peer takes its time."""
    heard: list[int] = []
    gone = threading.Event()

    def serve(peer: socket.socket) -> None:
        assert gone.wait(PATIENCE)
        heard.append(len(keep(peer)))

    with serving(place, serve, family) as port:
        pid, said = run(place, counted, "leave", "connect", address_of(plan.ECHO, family), port, MEGABYTES)
        gone.set()
    assert check(guarded, pid, said, MEGABYTES)["received"] == 0
    assert heard == [MEGABYTES]


def test_a_peer_that_resets(place: World, guarded: Guard, counted: Path) -> None:
    """The peer has had everything, and ends it with RST."""

    def serve(peer: socket.socket) -> None:
        left = MEGABYTES
        while left:
            data = peer.recv(1 << 16)
            left -= len(data)
            peer.sendall(data)
        eventually(lambda: waits_to_be_sent(peer) == 0, "everything has arrived", PATIENCE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(place, serve, 4) as port:
        pid, said = run(place, counted, "write", "connect", plan.ECHO.v4, port, MEGABYTES)
    assert check(guarded, pid, said, MEGABYTES)["received"] == MEGABYTES


def waits_to_be_sent(peer: socket.socket) -> int:
    """Bytes that the other end has not acknowledged: tcp(7), SIOCOUTQ."""
    waiting = fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(waiting, sys.byteorder)


@pytest.mark.parametrize(
    ("do", "way", "bytes_"),
    [("connect", "write", MEGABYTES), ("udp", "send", DATAGRAMS), ("sendto", "send", DATAGRAMS)],
)
def test_ipv4_by_a_socket_of_ipv6(
    place: World, guarded: Guard, counted: Path, do: str, way: str, bytes_: int
) -> None:
    pid, said = run(place, counted, way, do, f"::ffff:{plan.ECHO.v4}", ECHO, bytes_)
    line = check(guarded, pid, said, bytes_)
    assert (line["remote"], line["received"]) == (endpoint(plan.ECHO.v4, ECHO), bytes_)


@BOTH
@pytest.mark.parametrize("answers", [False, True], ids=["to TCP", "to MPTCP"])
def test_multipath_tcp(place: World, guarded: Guard, counted: Path, family: int, answers: bool) -> None:
    """RFC 8684: with a server that speaks it, and with one that does not. A byte that probes a window goes
    twice, and its connection counts it twice.
    """
    protocol = IPPROTO_MPTCP if answers else socket.IPPROTO_TCP
    with serving(place, echo, family, protocol) as port:
        pid, said = run(place, counted, "mptcp", "connect", address_of(plan.ECHO, family), port, MEGABYTES)
    local, sent, received = map(int, said.split())
    assert sent == received == MEGABYTES
    line = says(guarded, pid, local)
    assert (line["sent"], line["received"]) == pytest.approx((sent, received), rel=0.01)


def test_what_is_sent_again_counts_once(place: World, guarded: Guard, counted: Path) -> None:
    """Every fiftieth packet on its way to the server is lost."""
    rules = """table inet losing {
        chain input { type filter hook input priority 0; iifname lab0 tcp dport 7 numgen inc mod 50 == 7 counter drop; }
    }"""
    place.in_server(lambda: subprocess.run(["nft", rules], check=True))
    try:
        pid, said = run(place, counted, "write", "connect", plan.ECHO.v4, ECHO, MEGABYTES)
        listed = place.in_server(
            lambda: subprocess.check_output(["nft", "list table inet losing"], text=True)
        )
    finally:
        place.in_server(lambda: subprocess.run(["nft", "delete table inet losing"], check=True))
    lost = re.search(r"counter packets (\d+)", listed)
    assert lost is not None
    assert int(lost[1]) > 0
    assert check(guarded, pid, said, MEGABYTES)["received"] == MEGABYTES


def test_data_in_the_syn(place: World, guarded: Guard, counted: Path) -> None:
    """TCP Fast Open (RFC 7413): the first connection brings the cookie, the second sends data in its SYN."""
    setting = Path("/proc/sys/net/ipv4/tcp_fastopen")
    place.in_server(lambda: setting.write_text("1027"))  # ip-sysctl.rst: for servers that do not ask
    before = fast_opened(place)
    for _ in range(2):
        with serving(place, echo, 4) as port:
            pid, said = run(place, counted, "fastopen", "connect", plan.ECHO.v4, port, 100_000)
        assert check(guarded, pid, said, 100_000)["received"] == 100_000
    assert fast_opened(place) > before


def fast_opened(place: World) -> int:
    """Connections that the server has accepted with data in their SYN (TCPFastOpenPassive)."""
    table = Path("/proc/thread-self/net/netstat")
    names, values = place.in_server(table.read_text).splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["TCPFastOpenPassive"])


@BOTH
def test_tcp_within_this_host(place: World, guarded: Guard, counted: Path, family: int) -> None:
    """Both halves are connections, and both are complete."""
    own = "127.0.0.1" if family == 4 else "::1"
    with agent_in(place) as server:
        listening = server.do("listen", (own, 0))
        pid, said = run(place, counted, "write", "connect", own, listening.port, MEGABYTES)
        check(guarded, pid, said, MEGABYTES, direction="out")
        local, sent, received = map(int, said.split())
        other = says(guarded, server.pid, listening.port, direction="in", remote=endpoint(own, local))
    assert (other["sent"], other["received"]) == (received, sent)


def test_many_small_connections(place: World, guarded: Guard, counted: Path) -> None:
    """Of programs that live a few milliseconds: each is one, and complete."""
    many = 100
    command = [str(counted), "write", "connect", plan.ECHO.v4, str(ECHO)]
    code = """
import subprocess, sys
for size in range(1, int(sys.argv[1]) + 1):
    done = subprocess.Popen([*sys.argv[2:], str(size)], stdout=subprocess.PIPE, text=True)
    print(done.pid, done.communicate()[0], end="", flush=True)
"""
    _, said = run(place, sys.executable, "-c", code, many, *command)
    programs = [line.partition(" ") for line in said.splitlines()]
    assert len(programs) == many
    for pid, _, counts in programs:
        check(guarded, int(pid), counts, 1)
    assert sum(int(counts.split()[1]) for _, _, counts in programs) == many * (many + 1) // 2


# --- datagrams -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("socket_is", ["udp", "sendto"])
@pytest.mark.parametrize("way", ["send", "sendmmsg", "io_uring", "gso", "fragments"])
def test_udp(place: World, guarded: Guard, counted: Path, family: int, socket_is: str, way: str) -> None:
    """§2.1: Connected and not; with UDP_SEGMENT one packet is many datagrams, and a large datagram many packets."""
    need_io_uring(way)
    pid, said = run(place, counted, way, socket_is, address_of(plan.ECHO, family), ECHO, DATAGRAMS)
    line = check(guarded, pid, said, DATAGRAMS, protocol="udp", direction="out")
    assert line["received"] == line["sent"], "none was lost"


@BOTH
@pytest.mark.parametrize("way", ["send", "gso"])
def test_udp_within_this_host(place: World, guarded: Guard, counted: Path, family: int, way: str) -> None:
    """A segmented datagram stays whole on its way to a receiver with UDP_GRO, and is taken apart for another one."""
    own = "127.0.0.1" if family == 4 else "::1"
    with agent_in(place) as server:
        bound = server.do("bound", (own, 0))
        pid, said = run(place, counted, way, "udp", own, bound.port, DATAGRAMS)
        local, sent, received = map(int, said.split())
        assert received == sent == DATAGRAMS
        check(guarded, pid, said, DATAGRAMS, direction="out")
        server.do("close", of=bound.id)
    other = says(guarded, server.pid, bound.port, direction="in", remote=endpoint(own, local))
    assert (other["sent"], other["received"]) == (received, sent)


@BOTH
def test_datagrams_that_come_in_segmented(place: World, guarded: Guard, family: int) -> None:
    """The peer sends with UDP_SEGMENT to a program that has UDP_GRO, and hears one answer."""
    own = address_of(plan.CLIENT, family)
    code = """
import socket, sys
made = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(17, 104, 1)  # UDP_GRO
made.settimeout(20)
made.bind((sys.argv[1], 0))
print(made.getsockname()[1], flush=True)
heard = 0
while heard < int(sys.argv[2]):
    data, peer = made.recvfrom(65536)
    heard += len(data)
    made.sendto(b"more", peer)
print(made.getsockname()[1], made.sendto(b"enough", peer), heard, flush=True)
"""
    batch, times = 16 * 1200, 30
    command = [sys.executable, "-c", code, own, str(batch * times)]
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with place.popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with place.in_server(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as peer:
            peer.settimeout(PATIENCE)
            peer.setsockopt(SOL_UDP, UDP_SEGMENT, 1200)
            sent = answers = 0
            for _ in range(times):
                sent += peer.sendto(bytes(batch), (own, port))
                answers += len(peer.recv(100))
            while answers % 4 == 0:
                answers += len(peer.recv(100))
        said, _ = process.communicate(timeout=PATIENCE)
    assert int(said.split()[2]) == sent == batch * times
    assert answers < 4 * times * 2, "most batches came whole"
    line = says(guarded, process.pid, port, protocol="udp", direction="in")
    assert (line["sent"], line["received"]) == (answers, sent)


# --- raw sockets ---------------------------------------------------------------------------------------------

RAW = """
import socket, sys
six, own_header = ":" in sys.argv[1], sys.argv[2] == "own"
made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 253)
made.settimeout(20)
header = b""
if own_header:  # the kernel fills in what is zero: raw(7)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    header = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253]) + bytes(6) + socket.inet_aton(sys.argv[1])
sent = heard = 0
for size in range(1, 1200, 31):
    sent += made.sendto(header + bytes(size), (sys.argv[1], 0)) - len(header)
    heard += len(made.recv(65536)) - (0 if six else 20)
print(0, sent, heard)
"""


@pytest.mark.parametrize(("family", "header"), [(4, "none"), (4, "own"), (6, "none")])
def test_a_raw_socket(place: World, guarded: Guard, family: int, header: str) -> None:
    """A protocol that nobody knows. What such a socket of IPv4 hears begins with the IP header, which is no payload."""
    there = address_of(plan.ECHO, family)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with closing(place.in_server(lambda: socket.socket(kind, socket.SOCK_RAW, EXPERIMENTAL))) as peer:
        peer.settimeout(PATIENCE)
        peer.bind((there, 0))

        def answer() -> None:
            for _ in range(1, 1200, 31):
                data, client = peer.recvfrom(65536)
                peer.sendto(data if family == 6 else data[20:], client)

        thread = threading.Thread(target=answer)
        thread.start()
        pid, said = run(place, sys.executable, "-c", RAW, there, header)
        thread.join(PATIENCE)
    _, sent, received = map(int, said.split())
    assert sent == received > 20_000
    line = guarded.wait_for(PATIENCE, event="end", pid=pid, protocol=str(EXPERIMENTAL))
    assert (line["sent"], line["received"]) == (sent, received)


# --- io_uring ------------------------------------------------------------------------------------------------


def need_io_uring(way: str) -> None:
    """Leaves a test out, or fails it where everything is demanded, on a kernel that forbids io_uring, and says how."""
    if way != "io_uring" or not (reason := io_uring_is_forbidden()):
        return
    if DEMAND:
        pytest.fail(f"a live test cannot run here: {reason}", pytrace=False)
    pytest.skip(reason)


def io_uring_is_forbidden() -> str:
    """Why there is no io_uring for root, or ""."""
    setting = Path("/proc/sys/kernel/io_uring_disabled")  # Linux 6.6
    code = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); p = ctypes.create_string_buffer(120)\n"
    code += "raise SystemExit(ctypes.get_errno() if libc.syscall(425, 1, p) < 0 else 0)"  # io_uring_setup
    status = subprocess.run([sys.executable, "-c", code], check=False).returncode
    if status == 0:
        return ""
    if setting.exists() and setting.read_text().strip() == "2":
        return "needs io_uring: sysctl kernel.io_uring_disabled=0"
    return (
        f"needs io_uring, which this kernel (CONFIG_IO_URING) or a system-call filter refuses: errno {status}"
    )
