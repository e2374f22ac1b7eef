"""A connection written as a JSON object: the object that ``--json`` prints, read as what a policy decides about.

The keys are those of docs/reference/policy.md. What events print besides (verdict, totals) is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any

from tidewaiter.model.key import Address, Direction, parse_endpoint
from tidewaiter.model.process import Process
from tidewaiter.policy.details import Told, app_of
from tidewaiter.policy.dimensions import DIMENSIONS, Names
from tidewaiter.policy.hosts import ascii_name
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.rule import Facts
from tidewaiter.policy.scripts import script_of
from tidewaiter.policy.words import listed, parse_asn, parse_protocol, parse_user, quoted, word

_TEXTS = {
    "program": "the executable's path",
    "sha256": "checksums of the executable, in hexadecimal",
    "sha1": "",
    "md5": "",
    "package": "the package that owns it",
    "script": "what an interpreter runs; found in `program` and `arguments` if left out",
    "app": "`snap:NAME`, `flatpak:ID`, `appimage:NAME`; found in `program` and `cgroup` if left out",
    "unit": "the systemd unit; found in `cgroup` if left out",
    "cgroup": "the control group",
    "container": "the container's id; found in `cgroup` if left out",
    "interface": "the network interface",
    "name": "the name that the program asked for",
    "country": "where the other end is",
    "continent": "",
}
_LISTS = {
    "arguments": "the command line, a list",
    "ancestors": "the executables of its ancestors, nearest first",
    "aliases": "what `name` is an alias of, link by link",
    "network": "the profiles of the network that this host is in",
    "pending": "dimensions of rules of which more may be known later",
}
KEYS: dict[str, str] = {
    **_TEXTS,
    **_LISTS,
    "environment": "variables, an object",
    "user": "a user's name or number",
    "user_group": "a group's name or number",
    "pid": "the process id",
    "direction": "`out` if left out, `in` or `forward`",
    "protocol": "`tcp` if left out; a name or a number",
    "local": '"ADDRESS:PORT" or "[ADDRESS]:PORT", or an address alone',
    "remote": "the same; required",
    "asn": "the autonomous system of the other end",
    "time": "seconds since 1970, or a text like 2030-01-31T18:00:00Z",
}
"""Each key of a connection, and what it is."""

_PASSED_OVER = frozenset(
    [
        "event",
        "id",
        "hidden",
        "verdict",
        "rule",
        "tier",
        "sent",
        "received",
        "duration",
        "held",
        "line",
        "file",
        "missing",
        "log",
        "function",
    ]
)
_LARGEST = 1 << 20

NOT_IN_EVENTS = (
    "ancestors",
    "environment",
    "sha256",
    "sha1",
    "md5",
    "package",
    "user_group",
    "interface",
    "network",
)
"""Dimensions of which an event says nothing; of the interface where the kernel has decided alone."""


def read_connection(text: str, names: Names | None = None) -> Facts:
    """What is said of a connection by a JSON object in one text. Raises `BadValueError`."""
    return facts_of(read_object(text), names)


def read_object(text: str) -> object:
    """The JSON of one text. Raises `BadValueError`."""
    if len(text) > _LARGEST:
        raise BadValueError("the connection has more than a million characters", "make it smaller")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = 'write an object like {"program": "/usr/bin/curl", "remote": "192.0.2.1:443"}'
        raise BadValueError(f"the connection is not JSON ({str(error)[:80]})", remedy) from None
    return value


def is_decided(value: object) -> bool:
    """False for an event that no policy decides: a notice, counters, a packet socket."""
    if not isinstance(value, dict) or "event" not in value:
        return True
    return value["event"] not in ("notice", "stats") and value.get("protocol") != "packet"


def facts_of(value: object, names: Names | None = None) -> Facts:
    """What is said of a connection by an object of `KEYS`. Raises `BadValueError`."""
    if not isinstance(value, dict):
        raise BadValueError("the connection is not an object", 'write {"remote": "192.0.2.1:443", …}')
    for key in value:
        if key not in KEYS and key not in _PASSED_OVER:
            near = get_close_matches(str(key), KEYS, 1)
            remedy = f"did you mean {near[0]}?" if near else f"the keys are {listed(KEYS, 'and')}"
            raise BadValueError(f"a connection has no key {quoted(key)}", remedy)
    if "remote" not in value:
        raise BadValueError("the connection has no remote end", 'add "remote": "192.0.2.1:443"')
    return _facts(value, names or Names())


def _facts(value: dict[str, Any], names: Names) -> Facts:
    texts = {key: _text(value, key) for key in _TEXTS}
    lists = {key: _texts(value, key) for key in _LISTS}
    remote, remote_port = _end(value, "remote", None)
    local, local_port = _end(value, "local", ip_address("0.0.0.0" if remote.version == 4 else "::"))  # noqa: S104
    if local.version != remote.version:
        raise BadValueError(
            "local and remote are of two address families", "write both as IPv4 or both as IPv6"
        )
    for dimension in lists["pending"]:
        word("dimension", dimension, dict.fromkeys(DIMENSIONS, 0))
    process = Process(0, cgroup=texts["cgroup"])
    name = ascii_name(texts["name"])
    aliases = [ascii_name(alias) for alias in lists["aliases"]]
    details = Told(
        gid=_user(value, "user_group", names.group),
        pid=_integer(value, "pid"),
        arguments=lists["arguments"],
        ancestors=lists["ancestors"],
        environment=_environment(value),
        sha256=texts["sha256"].lower(),
        sha1=texts["sha1"].lower(),
        md5=texts["md5"].lower(),
        package=texts["package"],
        script=texts["script"] or script_of(texts["program"], lists["arguments"]),
        app=texts["app"] or app_of(texts["program"], texts["cgroup"]),
        unit=texts["unit"] or process.unit,
        cgroup=texts["cgroup"],
        container=texts["container"] or process.container,
    )
    return Facts(
        texts["program"],
        _user(value, "user", names.user),
        word("direction", value.get("direction", "out"), {one.word: one for one in Direction}),
        _protocol(value, remote),
        local,
        local_port,
        remote,
        remote_port,
        details,
        tuple(dict.fromkeys(one for one in (name, *aliases) if one)),
        texts["interface"],
        _time(value),
        lists["network"],
        texts["country"].upper(),
        texts["continent"].upper(),
        parse_asn(value["asn"]) if value.get("asn") else 0,
        frozenset(lists["pending"]),
    )


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise BadValueError(f"{key} is {quoted(found)}", "write a text")
    return found


def _texts(value: dict[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key)
    if found is None:
        return ()
    elements = [found] if isinstance(found, str) else found
    if not isinstance(elements, list) or not all(isinstance(one, str) for one in elements):
        raise BadValueError(f"{key} is {quoted(found)}", "write a list of texts")
    return tuple(elements)


def _environment(value: dict[str, Any]) -> tuple[str, ...]:
    found = value.get("environment")
    if isinstance(found, dict) and all(isinstance(one, str) for one in found.values()):
        return tuple(f"{name}={text}" for name, text in found.items())
    if found is not None and not isinstance(found, list):
        raise BadValueError(f"environment is {quoted(found)}", 'write an object like {"LANG": "C"}')
    return _texts(value, "environment")


def _integer(value: dict[str, Any], key: str) -> int:
    found = value.get(key) or 0
    if type(found) is not int or found < 0:
        raise BadValueError(f"{key} is {quoted(found)}", "write a number")
    return found


def _user(value: dict[str, Any], key: str, find: Callable[[str], int]) -> int:
    """The number of a user or group; of one that this host does not have it is not known."""
    found = value.get(key)
    if found is None or found == "":
        return -1
    if type(found) not in (int, str):
        raise BadValueError(f"{key} is {quoted(found)}", "write a name or a number")
    if isinstance(found, str) and not found.isdecimal():
        try:
            return find(found)
        except (KeyError, ValueError):
            return -1
    number = parse_user(found, find)
    assert isinstance(number, int)
    return number


def _protocol(value: dict[str, Any], remote: Address) -> int:
    found = value.get("protocol", "tcp")
    if type(found) not in (int, str):
        raise BadValueError(f"protocol is {quoted(found)}", "write a name or a number")
    choices = parse_protocol(found)
    if remote.version not in [version for _, version in choices]:
        raise BadValueError(
            f"{found} is not a protocol of IPv{remote.version}", "write another, or another remote"
        )
    return choices[0][0]


def _end(value: dict[str, Any], key: str, otherwise: Address | None) -> tuple[Address, int]:
    found = value.get(key)
    if found is None and otherwise is not None:
        return otherwise, 0
    try:
        if not isinstance(found, str):
            raise ValueError  # noqa: TRY004 # as what is no address
        try:
            return _plain(ip_address(found.strip("[]"))), 0
        except ValueError:
            address, port = parse_endpoint(found)
            return _plain(address), port
    except ValueError:
        remedy = "write it like 192.0.2.1:443 or [2001:db8::1]:443"
        raise BadValueError(f"{key} is {quoted(found)}", remedy) from None


def _plain(address: Address) -> Address:
    """IPv4 that is written as IPv6 is IPv4."""
    if address.version == 6 and (inner := address.ipv4_mapped):
        return inner
    return address


def _time(value: dict[str, Any]) -> float:
    found = value.get("time", 0)
    if isinstance(found, str):
        try:
            return datetime.fromisoformat(found).timestamp()
        except (ValueError, OverflowError, OSError):
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1 << 37:
        raise BadValueError(
            f"time is {quoted(value['time'])}", "write seconds since 1970 or 2030-01-31T18:00:00Z"
        )
    return float(found)
