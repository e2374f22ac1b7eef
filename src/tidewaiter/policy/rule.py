"""What a rule is, what it is held against, and how the words of the policy file become its values.

A rule has a dimension for each thing that is known about a connection: program, user, direction, remote
address, local address, port. An empty dimension means any. The parsers of single words raise `BadValueError`;
where in a file the word stands is the business of `tidewaiter.policy.document`.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Address, Direction, Protocol

Network = IPv4Network | IPv6Network

PORT_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""The protocols that have ports: those that a port without a protocol means."""

_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_PORT = re.compile(r"(?P<low>[0-9]{1,5})(?:-(?P<high>[0-9]{1,5}))?(?:/(?P<protocol>[^/]*))?")
_LARGEST_UID = 2**32 - 2  # 2**32 - 1 is (uid_t)-1, which the kernel uses for "no user"
_SHOWN = 60


class Answer(StrEnum):
    """What a rule says, as the policy file spells it."""

    ACCEPT = "accept"
    BLOCK = "block"
    DROP = "drop"
    ASK = "ask"


class BadValueError(ValueError):
    """A word of the policy that cannot be used: what is wrong with it, and what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        """Both are parts of one sentence."""
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class PortSpan:
    """The ports ``low`` to ``high``, both included, of one protocol, or of tcp, udp and sctp (None).

    A protocol without ports (icmp) has the span 0 to 65535. Raises ValueError outside 0 <= low <= high
    <= 65535 and for a protocol that is not an IANA number (0 to 255).
    """

    low: int
    high: int
    protocol: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if not 0 <= self.low <= self.high <= 65535:
            raise ValueError(f"{self.low}-{self.high} is not a span of ports (0 to 65535)")
        if self.protocol is not None and not 0 <= self.protocol <= 255:
            raise ValueError(f"{self.protocol} is not a protocol number (0 to 255)")

    @property
    def protocols(self) -> tuple[int, ...]:
        """The protocol numbers that this span holds for."""
        return PORT_PROTOCOLS if self.protocol is None else (self.protocol,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Each empty dimension means any; a connection has to satisfy all of them.

    ``programs`` are absolute paths, ``users`` are uids. ``ports`` are the remote port of a connection
    that goes out or through this host, and the local port of one that comes in. ``line`` is where the
    rule begins in its file, counted from 1, or 0 for a rule made in Python.
    """

    name: str
    answer: Answer
    programs: tuple[str, ...] = ()
    users: tuple[int, ...] = ()
    directions: frozenset[Direction] = frozenset()
    remote: tuple[Network, ...] = ()
    local: tuple[Network, ...] = ()
    ports: tuple[PortSpan, ...] = ()
    line: int = 0


class Facts(NamedTuple):
    """What is known about a connection when it is decided. A named tuple, since each decision makes one.

    ``program`` is the path of the executable, "" when not known; ``uid`` is -1 when not known: a rule
    that names programs or users does not match then. Ports are 0 where the protocol has none. IPv4
    traffic of an IPv6 socket is to be given with its IPv4 addresses.
    """

    program: str
    uid: int
    direction: Direction
    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int

    @classmethod
    def of(cls, connection: Connection) -> Facts:
        """The facts of a connection."""
        key, process = connection.key, connection.process
        protocol, local, local_port, remote, remote_port, _ = key
        return cls._make(
            (
                process.path,
                process.uid,
                connection.direction,
                protocol,
                local,
                local_port,
                remote,
                remote_port,
            )
        )

    @property
    def port(self) -> int:
        """The port that rules are about: the local port coming in, otherwise the remote port."""
        return self.local_port if self.direction is Direction.IN else self.remote_port


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of a connection, and why.

    ``index`` is the place of the rule in the policy, from 0. When no rule matched, ``default`` is true,
    ``rule`` is "" and ``index`` is the number of rules plus the direction's number.
    """

    answer: Answer
    rule: str
    index: int
    default: bool = False


def quoted(value: object) -> str:
    """A value as it is shown in an error message: on one line, in quotes if it is text, never long."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def parse_program(text: str) -> str:
    """An absolute path of an executable, as written. Raises `BadValueError`."""
    if not text.startswith("/"):
        raise BadValueError(f"the program {quoted(text)} is not an absolute path", "begin it with /")
    if not text.isprintable():
        raise BadValueError(f"the program {quoted(text)} has a control character", "remove it")
    if text.endswith("/"):
        raise BadValueError(f"the program {quoted(text)} is a directory", "name the executable itself")
    if "*" in text or "?" in text:  # so that patterns can get a meaning without changing an old file's
        raise BadValueError(f"the program {quoted(text)} is a pattern", "name each executable by its path")
    return text


def programs_on_disk(rule: Rule) -> tuple[str, ...]:
    """The rule's program paths as written and as this host resolves them, each once.

    The kernel reports the executable itself, so a rule for ``/usr/bin/vi`` has to match what that link
    leads to. This reads the file system: it is for whoever compiles a policy for the host it runs on.
    """
    return tuple(dict.fromkeys(path for name in rule.programs for path in (name, os.path.realpath(name))))


def user_id(name: str) -> int:
    """The uid of a user of this host. Raises KeyError for an unknown name."""
    return pwd.getpwnam(name).pw_uid


def parse_user(value: str | int, find: Callable[[str], int] = user_id) -> int:
    """A uid from a number or from a name that ``find`` knows. Raises `BadValueError`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, int):
        if not 0 <= value <= _LARGEST_UID:
            raise BadValueError(f"{quoted(value)} is not a user id", f"write 0 to {_LARGEST_UID}")
        return value
    try:
        return find(value)
    except (KeyError, ValueError):
        remedy = "write the name of a user of this host, or the number"
        raise BadValueError(f"there is no user {quoted(value)}", remedy) from None


def parse_network(text: str) -> Network:
    """A network, or an address as the network of that one address. Raises `BadValueError`."""
    _, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        raise _no_network(text)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise _no_network(text) from None
    if isinstance(network, IPv6Network) and (inner := network.network_address.ipv4_mapped):
        plain = f"{inner}/{network.prefixlen - 96}"
        raise BadValueError(f"{quoted(text)} is IPv4 written as IPv6", f"write {plain}")
    address = text.partition("/")[0]
    if ip_address(address) != network.network_address:
        problem = f"{quoted(text)} has bits set after its first {network.prefixlen}"
        raise BadValueError(problem, f"write {network}, or {address} for the one address")
    return network


def _no_network(text: str) -> BadValueError:
    problem = f"{quoted(text)} is not an address or a network"
    return BadValueError(problem, "write it like 192.0.2.1, 10.0.0.0/8, 2001:db8::1 or fd00::/8")


def parse_port(value: str | int) -> PortSpan:
    """Ports: ``443``, ``"443/tcp"``, ``"8000-8100"``, ``"8000-8100/udp"``, or a protocol alone.

    Raises `BadValueError`.
    """
    text = str(value)
    if text in _PROTOCOLS:
        return PortSpan(0, 65535, _PROTOCOLS[text])
    match = _PORT.fullmatch(text)
    if match is None:
        raise BadValueError(
            f"{quoted(value)} is not a port", "write it like 443, 443/tcp, 8000-8100/udp or icmp"
        )
    low = int(match["low"])
    high = low if match["high"] is None else int(match["high"])
    if max(low, high) > 65535:
        raise BadValueError(f"the port {max(low, high)} is too large", "write 0 to 65535")
    if low > high:
        raise BadValueError(f"the ports {low}-{high} run backwards", f"write {high}-{low}")
    if match["protocol"] is None:
        return PortSpan(low, high)
    protocol = _PROTOCOLS.get(match["protocol"])
    if protocol not in PORT_PROTOCOLS:
        raise BadValueError(
            f"{quoted(match['protocol'])} is no protocol with ports", "write tcp, udp or sctp"
        )
    return PortSpan(low, high, protocol)
