"""How the words of the policy file become the values of rules. What cannot be used raises `BadValueError`; where in
a file the word stands is the business of `tidewaiter.policy.reader`.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, inet_pton
from typing import TypeVar

from tidewaiter.model.key import Protocol
from tidewaiter.policy.patterns import REGEX, BadValueError, Pattern, Under, glob, is_glob, regex
from tidewaiter.policy.rule import PORT_PROTOCOLS, PortSpan
from tidewaiter.policy.scopes import SCOPES, Network
from tidewaiter.policy.services import SERVICES

_T = TypeVar("_T")
_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_PORT = re.compile(r"(?P<low>[0-9]{1,5})(?:-(?P<high>[0-9]{1,5}))?(?:/(?P<protocol>[^/]*))?")
_LARGEST_UID = 2**32 - 2  # 2**32 - 1 is (uid_t)-1, which the kernel uses for "no user"
_SHOWN = 60


def quoted(value: object) -> str:
    """A value as it is shown in an error message: on one line, in quotes if it is text, never long."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def user_id(name: str) -> int:
    """The uid of a user of this host. Raises KeyError for an unknown name."""
    return pwd.getpwnam(name).pw_uid


def group_id(name: str) -> int:
    """The gid of a group of this host. Raises KeyError for an unknown name."""
    return grp.getgrnam(name).gr_gid


def parse_user(value: str | int, find: Callable[[str], int] = user_id, kind: str = "user") -> int | Pattern:
    """A uid from a number or from a name that ``find`` knows. Raises `BadValueError`. A ``kind`` of group likewise."""
    if isinstance(value, str) and value.startswith(REGEX):
        return regex(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, int):
        if not 0 <= value <= _LARGEST_UID:
            raise BadValueError(f"{quoted(value)} is not a {kind} id", f"write 0 to {_LARGEST_UID}")
        return value
    try:
        return find(value)
    except (KeyError, ValueError):
        remedy = f"write the name of a {kind} of this host, or the number"
        raise BadValueError(f"there is no {kind} {quoted(value)}", remedy) from None


def parse_network(text: str) -> Network:
    """A network, or an address as the network of that one address. Raises `BadValueError`."""
    address, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        raise _no_network(text)
    try:
        network: Network = IPv4Network((inet_pton(AF_INET, address), int(length or 32)))
    except (OSError, ValueError):  # this is quicker than ip_network, which says what is wrong
        network = _network(text)
    if isinstance(network, IPv6Network) and (inner := network.network_address.ipv4_mapped):
        plain = f"{inner}/{network.prefixlen - 96}"
        raise BadValueError(f"{quoted(text)} is IPv4 written as IPv6", f"write {plain}")
    return network


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        return _loose_network(text)


def _loose_network(text: str) -> Network:
    """Raises `BadValueError` for what is not a network, or has bits set behind its prefix."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise _no_network(text) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        return network
    address = text.partition("/")[0]
    problem = f"{quoted(text)} has bits set after its first {network.prefixlen}"
    raise BadValueError(problem, f"write {network}, or {address} for the one address")


def _no_network(text: str) -> BadValueError:
    problem = f"{quoted(text)} is not an address or a network"
    return BadValueError(problem, "write it like 192.0.2.1, 10.0.0.0/8, 2001:db8::1 or fd00::/8")


def parse_port(value: str | int) -> PortSpan:
    """Ports: ``443``, ``"443/tcp"``, ``"https"``, ``"8000-8100"``, ``"8000-8100/udp"``, or a protocol alone.

    Raises `BadValueError`.
    """
    text = str(value)
    if text in _PROTOCOLS:
        return PortSpan(0, 65535, _PROTOCOLS[text])
    name, slash, protocol_name = text.partition("/")
    if name.lower() in SERVICES:
        text = f"{SERVICES[name.lower()]}{slash}{protocol_name}"
    match = _PORT.fullmatch(text)
    if match is None:
        near = get_close_matches(name.lower(), SERVICES, 1, 0.8) if name[:1].isalpha() else []
        remedy = (
            f"did you mean {near[0]}?" if near else "write it like 443, 443/tcp, 8000-8100/udp, https or icmp"
        )
        raise BadValueError(f"{quoted(value)} is not a port", remedy)
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


def parse_text(text: str) -> str | Pattern:
    """A text, a pattern with ``*``, or ``re:`` with an expression. Raises `BadValueError`."""
    if text.startswith(REGEX):
        return regex(text)
    if not text.isprintable():
        raise BadValueError(f"{quoted(text)} has a control character", "remove it")
    return glob(text) if is_glob(text) else text


def parse_path(text: str, kind: str = "program") -> str | Pattern | Under:
    """An absolute path, a pattern with ``*``, a directory (it ends with ``/``), or ``re:`` with an expression.

    Raises `BadValueError`.
    """
    if text.startswith(REGEX):
        return regex(text)
    if not text.startswith("/") and not text.startswith("**"):
        raise BadValueError(f"the {kind} {quoted(text)} is not an absolute path", "begin it with /")
    if not text.isprintable():
        raise BadValueError(f"the {kind} {quoted(text)} has a control character", "remove it")
    if is_glob(text):
        return glob(text, path=True)
    return Under(text) if text.endswith("/") else text


def parse_script(text: str) -> str | Pattern | Under:
    """A script as it was named: a path, or what was typed. Raises `BadValueError`."""
    return parse_path(text, "script") if text.startswith(("/", "**")) else parse_text(text)


def parse_where(text: str) -> Network | Pattern | tuple[Network, ...]:
    """An address, a network, the networks of a scope, or ``re:`` with an expression. Raises `BadValueError`."""
    if text.startswith(REGEX):
        return regex(text)
    if text in SCOPES:
        return SCOPES[text]
    try:
        return parse_network(text)
    except BadValueError as bad:
        near = get_close_matches(text.lower(), SCOPES, 1)
        if near:
            raise BadValueError(bad.problem, f"did you mean the scope {near[0]}?") from None
        raise


def parse_protocol(value: str | int) -> tuple[tuple[int, int], ...]:
    """A protocol by name or number: ``tcp`` of both IP versions, ``tcp4``, ``tcp6``. Raises `BadValueError`."""
    text = str(value).lower()
    versions = (4, 6)
    if text[-1:] in {"4", "6"} and text[:-1] in PROTOCOLS:
        text, versions = text[:-1], (int(text[-1]),)  # type: ignore[assignment]  # one of them
    number = PROTOCOLS.get(text)
    if number is None and text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
    if number is None or number > 255:
        near = get_close_matches(text, PROTOCOLS, 1)
        remedy = f"did you mean {near[0]}?" if near else "write it like tcp, udp6, icmp or 47"
        raise BadValueError(f"{quoted(value)} is not a protocol", remedy)
    return tuple((number, version) for version in versions)


PROTOCOLS: dict[str, int] = {
    **_PROTOCOLS,
    "icmp6": 58,
    "ipv6-icmp": 58,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "udplite": 136,
}
"""The protocols that have a name in a policy."""


def parse_digest(text: str, digits: int) -> str:
    """A checksum in hexadecimal. Raises `BadValueError`."""
    if len(text) != digits or not all(digit in "0123456789abcdef" for digit in text.lower()):
        raise BadValueError(f"{quoted(text)} is not a checksum", f"write its {digits} hexadecimal digits")
    return text.lower()


def parse_container(text: str) -> str | Pattern:
    """A container by its id, or by the first 12 digits of it or more, as tools show it. Raises `BadValueError`."""
    if 12 <= len(text) < 64 and all(digit in "0123456789abcdef" for digit in text):
        return glob(f"{text}*")
    return parse_text(text)


def parse_country(text: str) -> str:
    """Two capitals. Raises `BadValueError`."""
    if len(text) != 2 or not text.isascii() or not text.isalpha():
        raise BadValueError(f"{quoted(text)} is not a country", "write its two letters, like DE")
    return text.upper()


CONTINENTS = ("AF", "AN", "AS", "EU", "NA", "OC", "SA")
"""The continents by their letters."""


def parse_continent(text: str) -> str:
    """Two capitals. Raises `BadValueError`."""
    if text.upper() not in CONTINENTS:
        raise BadValueError(f"{quoted(text)} is not a continent", f"write {listed(CONTINENTS, 'or')}")
    return text.upper()


def parse_asn(value: str | int) -> int:
    """``13335`` or ``"AS13335"``. Raises `BadValueError`."""
    text = str(value).upper().removeprefix("AS")
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 0 < int(text) < 2**32:
        raise BadValueError(f"{quoted(value)} is not an autonomous system", "write it like AS13335")
    return int(text)


_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])")


def parse_time(text: str) -> tuple[tuple[int, int], ...]:
    """``"08:00-18:00"`` as minutes of the day, the end not included; over midnight they are two spans.

    Raises `BadValueError`.
    """
    match = _CLOCK.fullmatch(text)
    numbers = [int(number) for number in match.groups()] if match else [25] * 4
    start, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if max(start, end) > 1440 or start == end:
        raise BadValueError(
            f"{quoted(text)} is not a time of day", "write it like 08:00-18:00 or 22:00-06:00"
        )
    if start < end:
        return ((start, end - 1),)
    return tuple(span for span in ((0, end - 1), (start, 1439)) if span[0] <= span[1])


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""The days by the letters that a policy writes."""


def parse_weekday(text: str) -> tuple[int, ...]:
    """``"sat"`` or ``"mon-fri"`` as numbers from 0. Raises `BadValueError`."""
    days = [day.strip()[:3].lower() for day in text.split("-")]
    if len(days) > 2 or any(day not in WEEKDAYS for day in days):
        raise BadValueError(f"{quoted(text)} is not a weekday", "write it like sat or mon-fri")
    first, last = WEEKDAYS.index(days[0]), WEEKDAYS.index(days[-1])
    return tuple((first + step) % 7 for step in range((last - first) % 7 + 1))


_RATE = re.compile(r"([0-9]+(?:[.][0-9]+)?) ?([kMG]?)(B|bit)/s")


def parse_rate(text: str) -> int:
    """``"1.5 MB/s"`` or ``"10 Mbit/s"`` as bytes a second. Raises `BadValueError`."""
    match = _RATE.fullmatch(text)
    rate = 0.0
    if match:
        rate = (
            float(match[1])
            * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]
            / (8 if match[3] == "bit" else 1)
        )
    if not 1 <= rate <= 10**12:
        raise BadValueError(f"{quoted(text)} is not a rate", "write it like 1 MB/s, 500 kB/s or 10 Mbit/s")
    return int(rate)


_PERIOD = re.compile(r"([0-9]{1,6}) ?([smhd])")
PERIODS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""The units of a period, in seconds."""


def parse_period(text: str) -> int:
    """``"90s"``, ``"30m"``, ``"6h"`` or ``"1d"`` as seconds. Raises `BadValueError`."""
    match = _PERIOD.fullmatch(text)
    seconds = int(match[1]) * PERIODS[match[2]] if match else 0
    if not 1 <= seconds <= 366 * 86400:
        raise BadValueError(f"{quoted(text)} is not a period", "write it like 30m, 6h or 1d, at most 366d")
    return seconds


def parse_url(text: str) -> str:
    """A URL of http or https, as it is. Raises `BadValueError`."""
    kind, _, rest = text.partition("://")
    if kind.lower() not in {"http", "https"} or not rest or " " in text:
        raise BadValueError(f"{quoted(text)} is not a URL", "write it like https://lists.example/ads.txt")
    return text


LIVES = ("always", "restart", "process-end", "once")
"""What ``until`` may say besides a time."""

ENDING = ("process-end", "once")
"""Those of them that begin to end with the first connection that the rule decides."""

DURATION = "^(?=[0-9])([0-9]{1,4}d)?([0-9]{1,4}h)?([0-9]{1,4}m)?([0-9]{1,4}s)?$"
"""A duration: days, hours, minutes, seconds, as many of them as are needed."""

_DURATION = re.compile(DURATION, re.ASCII)


def duration(life: float | str) -> int:
    """The seconds of a duration like ``2h`` or ``1d12h``; 0 for every other end of a rule."""
    match = _DURATION.fullmatch(life) if isinstance(life, str) else None
    days, hours, minutes, seconds = (
        (int(part[:-1]) if part else 0 for part in match.groups()) if match else [0] * 4
    )
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_until(value: object) -> float | str:
    """A time as seconds since 1970, a duration as it is written, or the word of a life; "" for always.

    Raises `BadValueError`.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.astimezone()
        return value.astimezone(UTC).timestamp()
    if value in LIVES:
        return "" if value == "always" else str(value)
    if isinstance(value, str) and duration(value):
        return value
    remedy = f"write {listed(LIVES, 'or')}, a duration like 2h, or a time like 2030-01-31T18:00:00Z"
    raise BadValueError(f"{quoted(value)} is no end of a rule", remedy)


def word(kind: str, value: object, words: Mapping[str, _T]) -> _T:
    """What a word stands for. Raises `BadValueError`."""
    if isinstance(value, str):
        if value in words:
            return words[value]
        if near := get_close_matches(value, words, 1):
            raise BadValueError(f"there is no {kind} {quoted(value)}", f"did you mean {near[0]}?")
    raise BadValueError(f"there is no {kind} {quoted(value)}", f"write {listed(words, 'or')}")


def listed(words: Iterable[str], last: str) -> str:
    """Words as a sentence has them: ``a, b or c``."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def parse_pid(value: str | int) -> int | Pattern:
    """A process id, or ``re:`` with an expression. Raises `BadValueError`."""
    if isinstance(value, str) and value.startswith(REGEX):
        return regex(value)
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 2**31:
        raise BadValueError(f"{quoted(value)} is not a process id", "write a number above 0")
    return int(text)
