"""A program that knows how we work tries to reach a forbidden end under the verdict of another one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from livelab import PATIENCE, Agent, Capture, eventually, scope_of
from tidewaiter import Connection, Firewall, Policy, Verdict
from tidewaiter.kernel import records
from tidewaiter.kernel.records import Record
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

FORBIDDEN, ALLOWED = plan.WEB, plan.ECHO
NOT_THERE = f"""
[[rule]]
name = "not there"
direction = "out"
remote = {list(FORBIDDEN)}
verdict = "drop"
"""
ASK = '[default]\nout = "ask"\n'
PRELUDE = f"""
import ctypes, socket, struct, sys, threading, time
A, B = ("{FORBIDDEN.v4}", 7), ("{ALLOWED.v4}", 7)
A6, B6 = ("{FORBIDDEN.v6}", 7), ("{ALLOWED.v6}", 7)
def made(kind=socket.SOCK_DGRAM, family=socket.AF_INET):
    it = socket.socket(family, kind)
    it.settimeout(1)
    return it
def disconnect(it):
    nobody = struct.pack("=H14x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(it.fileno(), nobody, len(nobody)) == 0
def tries(what, *arguments):
    try:
        return what(*arguments)
    except OSError as error:
        return type(error).__name__
def step(said=""):
    print(said, flush=True)
    sys.stdin.readline()
"""


class Trickster:
    """A program in the lab that runs ``code`` behind `PRELUDE`; each ``step()`` in it waits for `go`."""

    def __init__(self, world: World, code: str) -> None:
        self.process = world.popen(
            [sys.executable, "-c", PRELUDE + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """The program must come to a good end."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, output


def trick(world: World, code: str) -> None:
    """Runs the program to its end, which must be a good one."""
    Trickster(world, code).end()


def guarded(
    world: World, name: str, policy: str, decide: Callable[[Connection], Verdict] | None = None
) -> Firewall:
    return Firewall(Policy.parse("version = 1\n" + policy), decide=decide, scope=scope_of(world), name=name)


def pending(firewall: Firewall) -> list[Record]:
    found = firewall.engine.machine.installed.kernel.map("pending")
    return [records.unpack(data) for data in found.values()]


def reached(capture: Capture) -> set[str]:
    """The addresses of the lab at which a packet for the echo port has arrived."""
    return {str(packet.destination) for packet in capture.to_port(plan.Port.ECHO)}


def test_a_connect_that_fails_leaves_the_socket_where_it_was(
    world: World, capture: Capture, name: str
) -> None:
    with guarded(world, name, NOT_THERE):
        trick(
            world,
            """
it = made()
it.connect(A)
assert tries(it.connect, ("255.255.255.255", 7)) == "PermissionError"  # broadcast without SO_BROADCAST
assert it.getpeername() == A
tries(it.send, b"leak")
it = made(family=socket.AF_INET6)
it.connect(("::ffff:" + A[0], 7))
tries(it.connect, ("::ffff:255.255.255.255", 7))
tries(it.send, b"leak")
it = made()
it.connect(B)
it.send(b"through")
assert it.recv(100) == b"through"
""",
        )
        assert reached(capture) == {ALLOWED.v4}


def test_a_socket_with_two_peers_has_a_verdict_for_each(world: World, capture: Capture, name: str) -> None:
    with guarded(world, name, NOT_THERE):
        trick(
            world,
            """
for a, b, family in ((A, B, socket.AF_INET), (A6, B6, socket.AF_INET6)):
    it = made(family=family)
    for one in (a, b, a, b):  # connected to one after the other, and written to by name meanwhile
        it.connect(one)
        it.send(b"x")
        it.sendto(b"y", a)
        it.sendto(b"z", b)
    heard = [it.recv(10) for _ in range(4)]  # of those that came back from b while it was the peer
""",
        )
        assert reached(capture) == set(ALLOWED)


def test_no_thread_slips_through_while_another_turns_the_socket(
    world: World, capture: Capture, name: str
) -> None:
    with guarded(world, name, NOT_THERE):
        trick(
            world,
            """
end = time.monotonic() + 2
def writes(it, to):
    while time.monotonic() < end:
        tries(it.sendto, b"x", to)
def turns(it):
    while time.monotonic() < end:
        tries(it.connect, B)
        tries(it.send, b"y")
        disconnect(it)
        tries(it.connect, A)
        tries(it.send, b"z")
while time.monotonic() < end:
    it = made()
    threads = [threading.Thread(target=writes, args=(it, A)), threading.Thread(target=writes, args=(it, B)),
               threading.Thread(target=turns, args=(it,))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
""",
        )
        assert reached(capture) == {ALLOWED.v4}


def test_a_socket_that_is_disconnected_hears_no_strangers(world: World, name: str) -> None:
    policy = '[[rule]]\nname = "no visitors"\ndirection = "in"\nverdict = "drop"\n'
    with guarded(world, name, policy):
        program = Trickster(
            world,
            """
it = made()
it.bind(("0.0.0.0", 4711))  # a port that was not asked for would go with the peer
it.connect(B)
it.send(b"x")
assert it.recv(10) == b"x"
disconnect(it)
step(it.getsockname()[1])
assert tries(it.recv, 10) == "TimeoutError"
it.sendto(b"again", B)
assert it.recv(10) == b"again"
""",
        )
        port = int(program.said())
        knock = f"""
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.bind(("{FORBIDDEN.v4}", 0))
it.sendto(b"knock", ("{plan.CLIENT.v4}", {port}))
"""
        assert world.popen_server([sys.executable, "-c", knock]).wait(PATIENCE) == 0
        program.go()
        program.end()


LOOPBACK = (
    '[[rule]]\nname = "this host"\ndirection = "out"\nremote = ["127.0.0.0/8", "::1"]\nverdict = "{}"\n'
)
UNSPECIFIED = """
for address, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6), ("::ffff:0.0.0.0", socket.AF_INET6)):
    server = socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    heard = made(family=family)
    heard.bind(("", server.getsockname()[1]))
    to = address, server.getsockname()[1]
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        it = made(kind, family)
        tries(it.connect, to)
        connected = tries(it.send, b"x") == 1
        if kind == socket.SOCK_STREAM:
            assert connected == {passes}, (address, "tcp")
        else:
            assert (tries(heard.recv, 10) == b"x") == {passes}, (address, "udp")
    it = made(family=family)
    tries(it.sendto, b"y", to)
    assert (tries(heard.recv, 10) == b"y") == {passes}, (address, "sendto")
"""


@pytest.mark.parametrize("verdict", ["accept", "drop", "block"])
def test_the_unspecified_address_is_the_one_that_the_kernel_takes_it_for(
    world: World, name: str, verdict: str
) -> None:
    others = "block" if verdict == "accept" else "accept"
    with guarded(world, name, LOOPBACK.format(verdict) + f'[default]\nout = "{others}"\n'):
        trick(world, UNSPECIFIED.format(passes=verdict == "accept"))


def test_the_unspecified_address_is_asked_about_as_what_it_is(world: World, name: str) -> None:
    asked: list[str] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(str(connection.key.remote))
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, name, ASK, decide):
        trick(
            world,
            """
server = socket.create_server(("", 0))
it = made(socket.SOCK_STREAM)
it.settimeout(5)
it.connect(("0.0.0.0", server.getsockname()[1]))
""",
        )
    assert asked == ["127.0.0.1"]


def test_a_packet_takes_no_route_of_its_own(world: World, capture: Capture, name: str) -> None:
    """§2.1: IP options send it to another address than its socket's (loose source routing, RFC 791 §3.1)."""
    with guarded(world, name, NOT_THERE):
        trick(
            world,
            """
route = bytes([131, 7, 4]) + socket.inet_aton(A[0]) + b"\\0"
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    it = made(kind)
    it.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
    tries(it.connect, B)
    tries(it.send, b"leak")
    it = made(kind)
    it.connect(B)
    it.send(b"first")
    it.recv(10)
    it.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)  # when the connection is known already
    tries(it.send, b"leak")
it = made()
it.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
tries(it.sendto, b"leak", B)
# and the other way round: by way of an allowed address to the one that is not
route = bytes([1, 131, 7, 4]) + socket.inet_aton(B[0])
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    it = made(kind)
    it.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
    tries(it.connect, A)
    tries(it.send, b"leak")
    tries(it.sendto, b"leak", A)
it = made()
it.sendto(b"first", B)
it.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
tries(it.sendto, b"leak", A)
time.sleep(1.2)
""",
        )
        found = capture.to_port(plan.Port.ECHO)
        assert {str(packet.destination) for packet in found} == {ALLOWED.v4}
        assert {packet.transport_offset for packet in found} == {20}


def test_a_connection_that_never_began_leaves_no_question(world: World, name: str) -> None:
    with guarded(world, name, ASK, lambda _: Verdict.PERMANENT_ACCEPT) as firewall:
        trick(
            world,
            """
for _ in range(50):
    with made(socket.SOCK_STREAM) as it:
        assert tries(it.connect, ("224.0.0.1", 80)) == "OSError"  # TCP goes to one, never to many
    with made() as it:
        assert tries(it.connect, ("255.255.255.255", 80)) == "PermissionError"
""",
        )
        assert pending(firewall) == []


def test_sockets_within_sockets_leave_nothing(world: World, name: str) -> None:
    """The kernel's own socket within one of MPTCP is released without a word."""
    with guarded(world, name, ASK, lambda _: Verdict.PERMANENT_ACCEPT) as firewall:
        trick(
            world,
            """
MPTCP = 262
for _ in range(20):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as it:
        tries(it.connect, ("224.0.0.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as it:
        it.bind(("", 0))
        it.listen()
    with made(socket.SOCK_STREAM) as it:  # waits at one place after the other
        for _ in range(3):
            it.listen()
            disconnect(it)
    with made() as it:
        for _ in range(3):
            it.bind(("", 0))
            it.connect(B)
            disconnect(it)
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as it:
    it.connect(B)
    it.send(b"x")
    assert it.recv(10) == b"x"
""",
        )
        eventually(lambda: pending(firewall) == [], "no question is left")
        assert list(firewall.engine.machine.installed.kernel.map("listeners").keys()) == []


def test_many_peers_of_one_socket_are_asked_about_at_once(world: World, capture: Capture, name: str) -> None:
    asked: list[str] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(str(connection.key.remote))
        return Verdict.PERMANENT_DROP if asked[-1] == FORBIDDEN.v4 else Verdict.PERMANENT_ACCEPT

    with guarded(world, name, ASK, decide) as firewall:
        trick(
            world,
            f"""
peers = [(address, 7) for address in {[place.v4 for place in plan.SERVERS]}]
for _ in range(20):
    it = made()
    for peer in peers:
        it.sendto(b"x", peer)
    heard = {{it.recvfrom(10)[1] for _ in range(3)}}
    assert heard == set(peers) - {{A}}, heard
    for peer in peers:  # decided: nobody is asked again
        it.sendto(b"y", peer)
    assert {{it.recvfrom(10)[1] for _ in range(3)}} == set(peers) - {{A}}
""",
        )
        eventually(lambda: pending(firewall) == [], "the questions have gone with their sockets")
    assert sorted(asked) == sorted(20 * [place.v4 for place in plan.SERVERS])
    assert FORBIDDEN.v4 not in reached(capture)


@pytest.mark.parametrize("verdict", [Verdict.PERMANENT_ACCEPT, Verdict.PERMANENT_DROP])
@pytest.mark.parametrize("peers", [1, 2])
def test_a_datagram_outlives_its_socket_while_it_is_asked_about(
    world: World, capture: Capture, name: str, verdict: Verdict, peers: int
) -> None:
    ended: list[tuple[int, Verdict]] = []
    held: list[int] = []

    def listener(event: object) -> None:
        if type(event).__name__ == "Asked":
            held.append(event.packet)  # type: ignore[attr-defined]
        if type(event).__name__ == "Ended":
            ended.append((event.connection.sent, event.connection.verdict))  # type: ignore[attr-defined]

    policy = Policy.parse(f"version = 1\n{ASK}")
    with Firewall(policy, listener=listener, scope=scope_of(world), name=name, timeout=30) as firewall:
        trick(
            world,
            f"""
it = made()
for peer in (A, B)[:{peers}]:
    for _ in range(3):
        it.sendto(b"12345", peer)
it.close()
""",
        )
        eventually(lambda: len(held) == 3 * peers, "it is held")
        assert reached(capture) == set()
        assert ended == []
        for packet in held[::3]:
            firewall.engine.answer(packet, verdict)
        eventually(lambda: len(ended) == peers, "it is over")
        expected = {FORBIDDEN.v4, ALLOWED.v4} if peers == 2 else {FORBIDDEN.v4}
        assert reached(capture) == (expected if verdict.passes else set())
        assert ended == [(15 if verdict.passes else 0, verdict)] * peers
        eventually(lambda: pending(firewall) == [], "nothing is left of the questions")
        flows = firewall.engine.machine.installed.kernel.map("flows")
        assert list(flows.keys()) == []


@pytest.mark.parametrize("connect", [True, False])
def test_a_new_policy_holds_for_the_peer_that_a_socket_has(world: World, name: str, connect: bool) -> None:
    block = NOT_THERE.replace('"drop"', '"block"')
    with guarded(world, name, "") as firewall:
        program = Trickster(
            world,
            f"""
it = made()
if {connect}:
    it.connect(A)
write = (lambda: it.send(b"x")) if {connect} else (lambda: it.sendto(b"x", A))
assert write() == 1 and it.recv(10) == b"x"
step("accepted")
said = tries(write)
assert said == "PermissionError" or ({connect} and said in ("ConnectionAbortedError", "OSError")), said
step("blocked")
if {connect}:  # the socket was cut, or will be
    it = made()
    it.connect(A)
assert write() == 1 and it.recv(10) == b"x"
""",
        )
        assert program.said() == "accepted"
        firewall.load(Policy.parse("version = 1\n" + block))
        program.go()
        assert program.said() == "blocked"
        firewall.load(Policy())
        program.go()
        program.end()


def test_a_socket_in_the_hands_of_another_program(world: World, name: str, tmp_path: Path) -> None:
    """What a program has begun stays its own; for a new peer it is the one that writes who is asked about."""
    other = tmp_path / "other"
    shutil.copy(Path(sys.executable).resolve(), other)
    policy = f'[[rule]]\nname = "not that one"\nprogram = "{other}"\nverdict = "block"\n'
    script = f"""
import socket, sys
it = socket.socket(fileno=int(sys.argv[1]))
it.settimeout(2)
it.sendto(b"x", ("{FORBIDDEN.v4}", 7))
assert it.recv(10) == b"x"
try:
    it.sendto(b"x", ("{plan.DNS.v4}", 7))
except PermissionError:
    sys.exit(0)
sys.exit("not refused")
"""
    with guarded(world, name, policy):
        for how in ("exec", "child"):
            trick(
                world,
                f"""
import os, subprocess
it = made()
it.set_inheritable(True)
for peer in (A, B):
    it.sendto(b"x", peer)
    assert it.recv(10) == b"x"
command = [{str(other)!r}, "-c", {script!r}, str(it.fileno())]
environment = os.environ | {{"PYTHONHOME": sys.base_prefix}}
if {how!r} == "exec":
    os.execve(command[0], command, environment)
assert subprocess.run(command, close_fds=False, env=environment).returncode == 0
""",
            )


def test_another_user_is_another_program(world: World, name: str) -> None:
    policy = '[[rule]]\nname = "nobody goes out"\nuser = "nobody"\nverdict = "block"\n'
    with guarded(world, name, policy):
        trick(
            world,
            """
import os, pwd
bound, used = made(), made()
bound.bind(("", 0))
used.sendto(b"x", B)
os.setresuid(*[pwd.getpwnam("nobody").pw_uid] * 3)
for it in (bound, used, made()):
    assert tries(it.sendto, b"x", A) == "PermissionError"
""",
        )


def test_a_connection_stays_with_the_program_that_began_it(world: World, name: str) -> None:
    with guarded(world, name, "") as firewall:
        program = Trickster(
            world,
            """
import os, pwd
it = made()
it.sendto(b"x", A)
assert it.recv(10) == b"x"
child = os.fork()
if not child:
    os.setresuid(*[pwd.getpwnam("nobody").pw_uid] * 3)
    it.sendto(b"x", B)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert it.recv(10) == b"x"
step("both")
assert it.sendto(b"x", A) == 1 and it.recv(10) == b"x"
assert tries(it.sendto, b"x", B) == "PermissionError"
""",
        )
        assert program.said() == "both"
        firewall.load(Policy.parse('version = 1\n[[rule]]\nname = "n"\nuser = "nobody"\nverdict = "block"\n'))
        program.go()
        program.end()


def test_a_new_policy_knows_the_local_address(world: World, capture: Capture, name: str) -> None:
    policy = f'[[rule]]\nname = "not from here"\nlocal = "{plan.CLIENT.v4}"\nverdict = "drop"\n'
    with guarded(world, name, "") as firewall:
        program = Trickster(
            world,
            """
them = made(), made()
them[0].connect(A)  # nothing is sent yet
them[1].connect(B)
them[1].send(b"x")
assert them[1].recv(10) == b"x"
step("connected")
for it in them:
    for _ in range(3):
        tries(lambda: it.send(b"leak"))  # an error where the socket is cut already
""",
        )
        assert program.said() == "connected"
        firewall.load(Policy.parse("version = 1\n" + policy))
        capture.packets()
        program.go()
        program.end()
        assert reached(capture) == set()


def test_a_stranger_is_asked_about_whatever_the_port(world: World, name: str) -> None:
    """A port that the kernel has chosen, at which the peer's other port answers (TFTP, RFC 1350 §4)."""
    asked: list[tuple[str, int]] = []

    def decide(connection: Connection) -> Verdict:
        asked.append((connection.direction.name, connection.process.pid))
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, name, '[default]\nin = "ask"\n', decide):
        program = Trickster(
            world,
            """
it = made()
it.sendto(b"x", B)
assert it.recv(10) == b"x"
step(it.getsockname()[1])
it.settimeout(5)
heard, peer = it.recvfrom(10)
assert heard == b"knock"
it.sendto(b"come in", peer)
assert it.recv(10) == b"thanks"
""",
        )
        knock = f"""
import socket
to = "{plan.CLIENT.v4}", {program.said()}
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.bind(("{ALLOWED.v4}", 0))
it.settimeout(0.5)
for _ in range(5):
    it.sendto(b"knock", to)
    try:
        assert it.recv(10) == b"come in"
    except TimeoutError:
        continue
    it.sendto(b"thanks", to)
    break
else:
    raise SystemExit("never let in")
"""
        visitor = world.popen_server([sys.executable, "-c", knock])
        program.go()
        assert visitor.wait(PATIENCE) == 0
        program.end()
    assert asked == [("IN", program.process.pid)]


def test_who_only_listens_goes_on_after_a_reload(world: World, agent: Agent, name: str) -> None:
    """The peer of a bound socket streams to it: the new policy is asked once, and the stream goes on."""
    asked: list[str] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection.direction.name)
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, name, ASK, decide) as firewall:
        program = Trickster(
            world,
            """
it = made()
it.bind(("", 4712))
it.sendto(b"x", B)
assert it.recv(10) == b"x"
step("there")
it.settimeout(5)
for number in range(20):
    heard = it.recv(10)
    assert heard == b"tick", heard
""",
        )
        assert program.said() == "there"
        firewall.load(Policy.parse(f"version = 1\n{ASK}"))
        stream = f"""
import socket, struct, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
raw.bind(("{ALLOWED.v4}", 0))
for _ in range(25):
    raw.sendto(struct.pack(">HHHH", 7, 4712, 12, 0) + b"tick", ("{plan.CLIENT.v4}", 0))
    time.sleep(0.02)
"""
        streamer = world.popen_server([sys.executable, "-c", stream])
        program.go()
        program.end()
        assert streamer.wait(PATIENCE) == 0
    assert asked == ["OUT", "OUT"]


def test_a_reply_finds_its_way_when_the_local_address_changes(world: World, name: str) -> None:
    """IP_PKTINFO sends from another address of this host, as roaming does."""
    subprocess.run(
        [
            "nsenter",
            f"--net={world.client_namespace}",
            "ip",
            "address",
            "add",
            "10.77.0.2/24",
            "dev",
            plan.LINK,
        ],
        check=True,
    )
    with guarded(world, name, '[default]\nin = "block"\n'):
        trick(
            world,
            """
def sends(it, source, peer):
    info = struct.pack("=I4s4s", 0, socket.inet_aton(source), bytes(4))
    it.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, info)], 0, peer)  # IP_PKTINFO
    assert it.recv(10) == b"x"
for peers in ((A,), (A, B)):
    it = made()
    it.bind(("", 0))
    for source in ("10.77.0.1", "10.77.0.2", "10.77.0.1"):
        for peer in peers:
            sends(it, source, peer)
""",
        )


def test_a_connection_that_waits_to_be_forgotten_does_not_answer_for_the_next(
    world: World, agent: Agent, name: str
) -> None:
    asked: list[str] = []

    def decide(connection: Connection) -> Verdict:
        asked.append(connection.direction.name)
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, name, '[default]\nin = "ask"\n', decide) as firewall:
        program = Trickster(
            world,
            """
server = socket.create_server(("", 4713))
step("there")
for _ in range(2):
    peer, _ = server.accept()
    peer.close()  # first: TIME_WAIT is ours
""",
        )
        assert program.said() == "there"
        program.go()
        knock = f"""
import socket, time
for _ in range(2):
    it = socket.socket()
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.bind(("{ALLOWED.v4}", 4714))
    begun = time.monotonic()
    it.connect(("{plan.CLIENT.v4}", 4713))
    assert time.monotonic() - begun < 0.9, "only the second SYN was heard"
    assert it.recv(10) == b""
    it.close()
    time.sleep(0.2)
"""
        assert world.popen_server([sys.executable, "-c", knock]).wait(PATIENCE) == 0
        program.end()
        assert firewall.statistics()["unheld_dropped"] == 0
    assert asked == ["IN", "IN"]


def test_a_socket_that_was_connected_and_listens_now(world: World, name: str) -> None:
    policy = '[[rule]]\nname = "no visitors"\ndirection = "in"\nverdict = "drop"\n'
    with guarded(world, name, policy):
        program = Trickster(
            world,
            """
it = made(socket.SOCK_STREAM)
it.bind(("0.0.0.0", 0))
it.connect(B)
it.send(b"x")
assert it.recv(10) == b"x"
disconnect(it)
it.bind(("0.0.0.0", 0))
it.listen()
step(it.getsockname()[1])
assert tries(it.accept) == "TimeoutError"
""",
        )
        port = int(program.said())
        knock = f"import socket; socket.create_connection(('{plan.CLIENT.v4}', {port}), 1)"
        visitor = world.popen_server([sys.executable, "-c", knock], stderr=subprocess.DEVNULL)
        assert visitor.wait(PATIENCE) != 0
        program.go()
        program.end()


def test_two_servers_at_one_port(world: World, agent: Agent, name: str) -> None:
    """Each waits at an address of its own: what comes in belongs to the one that it is for."""
    seen: list[int] = []

    def decide(connection: Connection) -> Verdict:
        seen.append(connection.process.pid)
        return Verdict.PERMANENT_ACCEPT

    with guarded(world, name, '[default]\nin = "ask"\n', decide):
        port = agent.do("listen", (plan.CLIENT.v4, 0)).port
        program = Trickster(
            world,
            f"""
servers = [socket.create_server(("127.0.0.1", {port})), made()]
servers[1].bind(("127.0.0.1", {port}))
step("there")
""",
        )
        assert program.said() == "there"
        knock = f"""
import socket
it = socket.create_connection(("{plan.CLIENT.v4}", {port}), 5)
it.sendall(b"x")
assert it.recv(10) == b"x"
"""
        assert world.popen_server([sys.executable, "-c", knock]).wait(PATIENCE) == 0
        program.go()
        program.end()
    assert seen == [agent.pid]


def test_the_process_id_of_a_firewall_that_is_gone_is_nobodys_privilege(
    world: World, agent: Agent, name: str
) -> None:
    with guarded(world, name, NOT_THERE.replace('"drop"', '"block"')) as firewall:
        config = firewall.engine.machine.installed.kernel.map("config")
        ours = config.read(value=0)
        assert ours is not None
        config.write({"value": 0}, {**ours, "own_pid": agent.pid})  # as if the kernel had given it out again
        assert agent.do("tcp", (FORBIDDEN.v4, 7)).error == "PermissionError"
        assert agent.do("sendto", (FORBIDDEN.v4, 7), say="x").error == "PermissionError"
