"""What a rule is, and what it is held against.

A rule names what a connection has to be like, one dimension after the other: program, user, direction, remote address …
(`tidewaiter.policy.dimensions` is the table of them). What it leaves out may be anything. How the words of the policy
file become its values is the business of `tidewaiter.policy.words`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple
from typing import Protocol as Interface

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Address, Direction, Protocol
from tidewaiter.model.name import Name
from tidewaiter.policy.details import BLIND, NOTHING, Details, Lookup, OfProcess
from tidewaiter.policy.patterns import Pattern, Under
from tidewaiter.policy.scopes import Network

PORT_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""The protocols that have ports: those that a port without a protocol means."""


class Answer(StrEnum):
    """What a rule says, as the policy file spells it."""

    ACCEPT = "accept"
    BLOCK = "block"
    DROP = "drop"
    ASK = "ask"
    LIMIT = "limit"
    REDIRECT_NAME_SERVER = "redirect-name-server"
    REDIRECT_TUNNEL = "redirect-tunnel"
    REDIRECT_SPLIT_TUNNEL = "redirect-split-tunnel"
    PYTHON = "python"


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


Value = Any
"""What a dimension is about: a text, a number, a network, a pattern …"""

Values = Mapping[str, tuple[Any, ...]]
"""Dimension to the values of which one has to match. None among them stands for "not known"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What else a connection has to satisfy: in each dimension any of some values, and none of others."""

    any_of: Values = field(default_factory=dict, hash=False)
    none_of: Values = field(default_factory=dict, hash=False)


class Condition(NamedTuple):
    """One thing that a rule demands. Layer 0 is the rule itself, 1 and more what stands under ``also``."""

    dimension: str
    layer: int
    negated: bool
    values: tuple[Any, ...]


_condition = partial(
    tuple.__new__, Condition
)  # four for each of ten thousand rules: half the time of the class's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Each empty dimension means any; a connection has to satisfy all that it names.

    ``programs`` are absolute paths or patterns, ``users`` are uids. ``ports`` are the remote port of a connection
    that goes out or through this host, and the local port of one that comes in. ``any_of`` are further dimensions
    by name, ``none_of`` what a connection must not be like, ``also`` more conditions that have to hold besides.

    A rule that is not ``enabled``, or whose ``group`` is switched off, matches nothing. ``until`` is seconds since
    1970, a duration or the word of a life (`tidewaiter.policy.life`), "" for always. ``limit`` are bytes a second to
    and from the program, 0 for no limit. ``function`` is what an answer `Answer.PYTHON` calls. ``file`` and ``line``
    are where the rule begins, counted from 1, 0 for a rule made in Python.
    """

    name: str
    answer: Answer
    programs: tuple[str | Pattern | Under | None, ...] = ()
    users: tuple[int | Pattern | None, ...] = ()
    directions: frozenset[Direction] = frozenset()
    remote: tuple[Network | Pattern, ...] = ()
    local: tuple[Network | Pattern, ...] = ()
    ports: tuple[PortSpan, ...] = ()
    any_of: Values = field(default_factory=dict, hash=False)
    none_of: Values = field(default_factory=dict, hash=False)
    also: tuple[Conditions, ...] = ()
    group: str = ""
    enabled: bool = True
    log: bool = True
    until: float | str = ""
    limit: tuple[int, int] = (0, 0)
    function: str = ""
    line: int = field(default=0, compare=False)
    file: str = field(default="", compare=False)

    def conditions(self) -> Iterator[Condition]:
        """All that it demands."""
        for name, values in (
            ("program", self.programs),
            ("user", self.users),
            ("direction", tuple(self.directions)),
            ("remote", self.remote),
            ("local", self.local),
            ("port", self.ports),
        ):
            if values:
                yield _condition((name, 0, False, values))
        tables: tuple[Rule | Conditions, ...] = (self, *self.also)
        for layer, one in enumerate(tables):
            for name, values in one.any_of.items():
                yield _condition((name, layer, False, values))
            for name, values in one.none_of.items():
                yield _condition((name, layer, True, values))
        if isinstance(self.until, float):
            yield _condition(("until", 0, False, (self.until,)))


class Facts(NamedTuple):
    """What is known about a connection when it is decided. A named tuple, since each decision makes one.

    ``program`` is the path of the executable, "" when not known; ``uid`` is -1 when not known: a rule
    that names programs or users does not match then. Ports are 0 where the protocol has none. IPv4
    traffic of an IPv6 socket is to be given with its IPv4 addresses.

    ``details`` is what else is known of the program. ``names`` is what the remote end is called: the name that was
    asked for, then what it is an alias of. ``time`` is seconds since 1970, 0 for not known. ``network`` are the
    profiles of the network that this host is in. ``pending`` names the dimensions of which more may be known later: a
    rule that needs one of them cannot be decided now.
    """

    program: str
    uid: int
    direction: Direction
    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    details: Details = NOTHING
    names: tuple[str, ...] = ()
    interface: str = ""
    time: float = 0.0
    network: tuple[str, ...] = ()
    country: str = ""
    continent: str = ""
    asn: int = 0
    pending: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        connection: Connection,
        *,
        time: float = 0.0,
        lookup: Lookup = BLIND,
        network: tuple[str, ...] = (),
        pending: frozenset[str] = frozenset(),
    ) -> Facts:
        """The facts of a connection at a time (seconds since 1970); ``lookup`` finds what its record lacks."""
        key, process = connection.key, connection.process
        protocol, local, local_port, remote, remote_port, _ = key
        return cls(
            process.path,
            process.uid,
            connection.direction,
            protocol,
            local,
            local_port,
            remote,
            remote_port,
            OfProcess(process, lookup),
            _names(connection.name),
            connection.interface,
            time,
            network,
            pending=pending,
        )

    @property
    def port(self) -> int:
        """The port that rules are about: the local port coming in, otherwise the remote port."""
        return self.local_port if self.direction is Direction.IN else self.remote_port


def _names(name: Name) -> tuple[str, ...]:
    """The name that was asked for, then what it is an alias of."""
    return tuple(dict.fromkeys((name.name, *name.chain))) if name.name else ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of a connection, and why.

    ``index`` is the place of the rule in the policy, from 0. When no rule matched, ``default`` is true,
    ``rule`` is "" and ``index`` is the number of rules plus the direction's number. ``missing`` are the dimensions
    that have to be known before this rule, the first that may match, can be decided; ``answer`` is ASK then.
    ``function`` is what an answer PYTHON calls.
    """

    answer: Answer
    rule: str
    index: int
    default: bool = False
    missing: tuple[str, ...] = ()
    function: str = ""


class MemberList(Interface):
    """A list that rules name: of domains, of networks, or of both."""

    @property
    def by_name(self) -> bool:
        """Whether any name is in it."""

    def has(self, packed: bytes, names: tuple[str, ...], /) -> bool:
        """Whether an address, in network order, or one of some names is in it."""

    def contains_name(self, name: str, /) -> bool:
        """Whether a name is in it, in small letters and without a dot at its end."""

    def contains_address(self, address: Address, /) -> bool:
        """Whether an address is in it."""


class Geography(Interface):
    """Where addresses are."""

    def country(self, address: Address, /) -> str:
        """Two capitals (ISO 3166-1), or ""."""

    def continent(self, address: Address, /) -> str:
        """AF, AN, AS, EU, NA, OC, SA, or ""."""

    def asn(self, address: Address, /) -> int:
        """The number of the autonomous system, or 0."""


@dataclass(frozen=True, slots=True)
class World:
    """What a policy looks things up in: its lists by their names, and where addresses are."""

    lists: Mapping[str, MemberList] = field(default_factory=dict, hash=False)
    geography: Geography | None = None
