"""One operator of OpenSnitch as conditions of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from tidewaiter.policy.hosts import ascii_name, parse_name
from tidewaiter.policy.imported import CannotCarryError
from tidewaiter.policy.patterns import REGEX, escape, found, regex
from tidewaiter.policy.words import user_id

Conditions = dict[str, Any]
"""Dimension to words, in the way of a policy file."""

Files = Callable[[str], Mapping[str, bytes]]
"""What gives the files of a directory (name to content). Raises OSError."""

ALIASES = {
    "LAN": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1", "fc00::/7"),
    "MULTICAST": ("224.0.0.0/4", "ff00::/8"),
}
"""The aliases of networks that OpenSnitch ships."""

_PROTOCOLS = {
    "tcp": "tcp4",
    "tcp6": "tcp6",
    "udp": "udp4",
    "udp6": "udp6",
    "udplite": "udplite4",
    "udplite6": "udplite6",
    "sctp": "sctp4",
    "sctp6": "sctp6",
    "dccp": "dccp4",
    "dccp6": "dccp6",
    "icmp": "icmp",
    "icmp6": "icmpv6",
    "icmpv6": "icmpv6",
    "igmp": "igmp",
    "gre": "gre",
    "esp": "esp",
    "ah": "ah",
}
_DIRECT = {
    "process.path": "program",
    "process.parent.path": "ancestors",
    "process.command": "arguments",
    "process.id": "pid",
    "process.hash.md5": "md5",
    "process.hash.sha1": "sha1",
    "user.id": "user",
    "user.name": "user",
    "source.ip": "local",
    "dest.ip": "remote",
    "source.network": "local",
    "dest.network": "remote",
    "source.port": "local_port",
    "dest.port": "port",
    "dest.host": "asked_host",
    "iface.in": "interface",
    "iface.out": "interface",
}
_PORTS = frozenset(("source.port", "dest.port"))
_NUMBERS = frozenset(("user.id", "process.id"))
_HASHES = frozenset(("process.hash.md5", "process.hash.sha1"))
_ADDRESSES = frozenset(("source.ip", "dest.ip", "source.network", "dest.network"))
_LISTS = {
    "lists.domains": "opensnitch-domains",
    "lists.ips": "opensnitch-networks",
    "lists.nets": "opensnitch-networks",
}
_MD5 = re.compile(r"[0-9a-f]{32}")
_ENVIRONMENT = "process.env."
_MOST = 5000
_OPAQUE = re.compile(r"\\Q.*?(?:\\E|$)|\\[^A]|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)
"""The parts of an expression in which ``^``, ``|`` and parentheses are no operators: escapes and classes."""
_GROUP = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Operator:
    """One comparison: what is compared (``operand``), how (``kind``), with what."""

    kind: str
    operand: str
    data: str
    sensitive: bool

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Operator:
        """From its JSON object. Raises `CannotCarryError`."""
        texts = [table.get(key, "") for key in ("type", "operand", "data")]
        if not all(isinstance(text, str) for text in texts):
            raise CannotCarryError("its operator has a type, operand or data that is not text")
        return cls(texts[0], texts[1], texts[2], bool(table.get("sensitive")))


def conditions(
    one: Operator, read: Files, lists: dict[str, dict[str, Any]], remarks: list[str]
) -> list[Conditions]:
    """What a connection has to satisfy, all of it. Lists that it needs are added to ``lists``, what has to be said
    of it to ``remarks``. Raises `CannotCarryError`, and BadValueError for an expression that cannot be used.
    """
    if one.operand == "true":
        return []
    if one.kind == "lists" or one.operand.startswith("lists."):
        return [_named(_of_list(one, read, lists, remarks))]
    if one.operand not in _DIRECT and one.operand != "protocol" and not one.operand.startswith(_ENVIRONMENT):
        raise CannotCarryError(f"there is nothing here like the operand {one.operand!r}")
    make = {"simple": _simple, "regexp": _regexp, "network": _network, "range": _range}.get(one.kind)
    if make is None:
        raise CannotCarryError(f"there is nothing here like the type {one.kind!r}")
    made = make(one)
    if one.operand == "iface.in":
        made["direction"] = "in"
    return [_named(made)]


def _named(made: Conditions) -> Conditions:
    """The conditions themselves. Raises BadValueError for names of hosts that no policy may have."""
    names = made.get("asked_host", [])
    for name in names if isinstance(names, list) else [names]:
        if name:  # "" is one that is not known
            parse_name(name)
    return made


def _simple(one: Operator) -> Conditions:  # noqa: PLR0911 # one for each kind of operand
    if one.operand.startswith(_ENVIRONMENT):
        return _variable_is(one)
    if one.operand == "protocol":
        word = _PROTOCOLS.get(one.data.lower())
        if word is None:
            raise CannotCarryError(f"there is no protocol {one.data!r}")
        return {"protocol": word}
    dimension = _DIRECT[one.operand]
    if one.operand in _ADDRESSES:
        return {dimension: _networks(one.data)}
    if one.operand in _PORTS or one.operand in _NUMBERS:
        if not one.data.isdecimal():
            raise CannotCarryError(f"{one.data!r} is not a number")
        return {dimension: int(one.data)}
    if one.operand in _HASHES:
        return {dimension: [one.data.lower(), ""] if one.data else [""]}
    if one.operand == "user.name":
        try:
            user_id(one.data)
        except (KeyError, ValueError):
            raise CannotCarryError(f"this host has no user {one.data!r}") from None
        return {dimension: one.data}
    if not one.data and dimension != "ancestors":
        return {dimension: ""}  # there, what is not known is an empty text
    if one.operand == "dest.host":
        return {dimension: [_expression(f"^{escape(ascii_name(one.data))}$", sensitive=False)]}
    plain = one.data.startswith("/") and not one.data.endswith("/") and not set(one.data) & set("*?")
    if one.sensitive and plain and one.data.isprintable() and dimension in {"program", "ancestors"}:
        return {dimension: one.data}
    return {dimension: _same("", one)}


def _variable_is(one: Operator) -> Conditions:
    name = one.operand.removeprefix(_ENVIRONMENT)
    if one.data:
        return {"environment": _same(f"{name}=", one)}
    filled = REGEX + _checked(f"(?s)^{escape(name)}=.")
    return {"not": {"environment": filled}}  # there, a variable that is not there is an empty text


def _same(before: str, one: Operator) -> str:
    """An expression for equality with the operator's data."""
    data = escape(one.data)
    return REGEX + _checked(f"(?s)^{escape(before)}{data if one.sensitive else f'(?i:{data})'}$")


def _regexp(one: Operator) -> Conditions:
    expression = one.data if one.sensitive else f"(?i){one.data}"
    _checked(expression)
    if one.operand.startswith(_ENVIRONMENT):
        if found(expression, ""):
            raise CannotCarryError("its expression fits a variable that is not there too")
        return {"environment": _variable(one)}
    if one.operand == "protocol":
        words = [word for name, word in _PROTOCOLS.items() if found(expression, name)]
        if not words:
            raise CannotCarryError("its expression fits no protocol")
        return {"protocol": list(dict.fromkeys(words))}
    dimension = _DIRECT[one.operand]
    if one.operand in _PORTS:
        spans = _spans([port for port in range(65536) if found(expression, str(port))])
        if not spans:
            raise CannotCarryError("its expression fits no port")
        return {dimension: spans}
    if one.operand in _HASHES or one.operand == "user.name":
        raise CannotCarryError(f"an expression on {one.operand} has no counterpart")
    words = [REGEX + expression]
    if found(expression, "") and one.operand not in _ADDRESSES and dimension != "ancestors":
        words.append(
            ""
        )  # there, what is not known is an empty text, and without ancestors there is none to fit
    return {dimension: words if len(words) > 1 else words[0]}


def _variable(one: Operator) -> str:
    """An expression for ``NAME=VALUE``, from the one for the value: its ``^`` would be the beginning of NAME."""
    top = plain = _OPAQUE.sub("", one.data)
    while (less := _GROUP.sub("", top)) != top:
        top = less
    before, value = "(?s:.*)", one.data
    if "^" in plain or r"\A" in plain:
        if not value.startswith("^") or plain.count("^") > 1 or r"\A" in plain or "|" in top:
            raise CannotCarryError(
                "its expression on a variable has a ^ that is not at the beginning of all of it"
            )
        before, value = "", value[1:]
    name, flags = escape(one.operand.removeprefix(_ENVIRONMENT)), "s" if one.sensitive else "is"
    return REGEX + _checked(f"^{name}={before}(?{flags}:{value})")


def _network(one: Operator) -> Conditions:
    if one.operand not in _ADDRESSES:
        raise CannotCarryError(f"{one.operand} is no address")
    return {_DIRECT[one.operand]: _networks(one.data)}


def _networks(data: str) -> str | list[str]:
    if data in ALIASES:
        return list(ALIASES[data])
    try:
        if "/" in data:
            return str(ip_network(data, strict=False))
        return str(ip_address(data))
    except ValueError:
        raise CannotCarryError(f"{data!r} is no address, network or alias of one") from None


def _range(one: Operator) -> Conditions:
    low, dash, high = one.data.partition("-")
    if not dash or not low.strip().isdecimal() or not high.strip().isdecimal() or int(low) > int(high):
        raise CannotCarryError(f"{one.data!r} is no range of numbers")
    first, last = int(low), int(high)
    if one.operand in _PORTS:
        if first > 65535:
            raise CannotCarryError(f"{one.data!r} is beyond the last port")
        return {_DIRECT[one.operand]: f"{first}-{min(last, 65535)}"}
    if one.operand not in _NUMBERS:
        raise CannotCarryError(f"{one.operand} is no number")
    if last - first < _MOST:
        return {_DIRECT[one.operand]: list(range(first, last + 1))}
    if last >= 2**32:
        raise CannotCarryError(f"{one.data!r} is beyond the last number")
    return {_DIRECT[one.operand]: REGEX + _checked(f"^(?:{'|'.join(_numbers(first, last))})$")}


def _numbers(first: int, last: int) -> Iterator[str]:
    """Expressions for the numbers from one to another: each for those that begin alike and have any digits then."""
    while first <= last:
        digits = 0
        while first % 10 ** (digits + 1) == 0 and first + 10 ** (digits + 1) - 1 <= last and first:
            digits += 1
        step = 10**digits
        head, low = divmod(first // step, 10)
        high = min(9, low + (last + 1 - first) // step - 1)
        yield f"{head or ''}[{low}-{high}]" + "[0-9]" * digits
        first += (high - low + 1) * step


def _of_list(one: Operator, read: Files, lists: dict[str, dict[str, Any]], remarks: list[str]) -> Conditions:
    if one.operand in _LISTS:
        kind = _LISTS[one.operand]
        name = _name(one.data, lists, kind)
        lists[name] = {"path": f"{one.data.rstrip('/')}/*.*", "format": kind}
        return {"list": name}
    if one.operand not in {"lists.domains_regexp", "lists.hash.md5"}:
        raise CannotCarryError(f"there is nothing here like the operand {one.operand!r}")
    try:
        files = read(one.data)
    except OSError as error:
        raise CannotCarryError(f"the folder {one.data!r} cannot be read ({error.strerror})") from None
    lines = [
        line.strip()
        for name, data in sorted(files.items())
        if "." in name and not name.startswith(".")
        for line in data.decode(errors="replace").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise CannotCarryError(f"the folder {one.data!r} has no lines to carry over")
    if one.operand == "lists.hash.md5":
        words = [word for word in (line.split()[0].lower() for line in lines) if _MD5.fullmatch(word)]
        if not words:
            raise CannotCarryError(f"the folder {one.data!r} has no MD5 checksums")
        made: Conditions = {"md5": [*words, ""]}
    else:
        words = [_expression(line, sensitive=one.sensitive) for line in lines]
        made = {"asked_host": words}
    remarks.append(f"{len(words)} lines of {one.data} copied: changes there are not followed")
    if len(words) < len(lines):
        remarks.append(f"{len(lines) - len(words)} lines there are no checksums")
    return made


def _name(path: str, lists: Mapping[str, dict[str, Any]], kind: str) -> str:
    """A name for the list of a folder, the same for the same folder."""
    last = path.rstrip("/").rpartition("/")[2]
    base = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in last) or "list"
    wanted = {"path": f"{path.rstrip('/')}/*.*", "format": kind}
    name, number = base, 2
    while name in lists and lists[name] != wanted:
        name, number = f"{base}-{number}", number + 1
    return name


def _expression(expression: str, *, sensitive: bool) -> str:
    return REGEX + _checked(expression if sensitive else f"(?i){expression}")


def _checked(expression: str) -> str:
    """The expression itself. Raises BadValueError if it cannot be used."""
    regex(REGEX + expression)
    return expression


def _spans(ports: list[int]) -> list[int | str]:
    spans: list[list[int]] = []
    for port in ports:
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return [low if low == high else f"{low}-{high}" for low, high in spans]
