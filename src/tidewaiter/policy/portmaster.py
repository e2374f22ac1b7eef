"""Portmaster's lists of endpoint rules in the words of ours, with the same decisions: there too, the first match wins.

A line is ``[+|-] ENTITY [PROTOCOL[/PORT[-PORT]]] [# comment]``. What refuses a domain also refuses what is an alias of
it, and what permits one does not. Where it is not known in which country or system an address is, a rule about
countries or systems refuses, whatever it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

from tidewaiter.model.key import protocol_name
from tidewaiter.policy.hosts import parse_name
from tidewaiter.policy.imported import CannotCarryError, Imported
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.scopes import Network, without
from tidewaiter.policy.services import SERVICES
from tidewaiter.policy.words import CONTINENTS, PROTOCOLS

_SCOPES = {
    "localhost": ("localhost",),
    "lan": ("link", "lan", "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255", "ff02::/16", "ff05::/16"),
    "internet": ("internet",),
}
_VERDICTS = {"+": "accept", "-": "block"}
_DOMAIN = re.compile(r"[*.]?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*(?:\.?\*|\.)?|\*[a-z0-9_.-]+\*?", re.IGNORECASE)
_WITH_PORTS = frozenset(("tcp", "udp", "sctp"))
_MISSING = ("country", "continent", "asn")


def import_portmaster(
    lines: Iterable[str], where: str = "", *, lists: str = "", direction: str = "out"
) -> Imported:
    """The policy of a list of endpoint rules.

    ``lists`` is the folder where the filter lists are, ``ID.txt`` each; without it, rules that name some cannot be
    carried over. ``direction``: ``out`` for endpoints, ``in`` for service endpoints.
    """
    found = Imported(
        "Imported from Portmaster.", {"out": "accept", "in": "accept" if direction == "out" else "block"}
    )
    for number, line in enumerate(lines, 1):
        text, _, comment = line.partition("#")
        if not text.strip():
            continue
        place = f"{where}:{number}" if where else f"line {number}"
        try:
            _carry(found, place, text.split(), comment.strip(), lists, direction)
        except (CannotCarryError, BadValueError) as error:
            found.refuse(place, error)
    return found


def _carry(found: Imported, place: str, words: list[str], comment: str, lists: str, direction: str) -> None:
    sign = words[0] if words[0] in _VERDICTS else words[0][:1]
    if sign not in _VERDICTS:
        raise CannotCarryError("it does not begin with + or -")
    rest = words[1:] if words[0] in _VERDICTS else [words[0][1:], *words[1:]]
    if not 1 <= len(rest) <= 2:
        raise CannotCarryError("it is not ENTITY [PROTOCOL[/PORT]]")
    entity = _entity(rest[0], sign)
    if "list" in entity and not lists:
        raise CannotCarryError("say by --lists in which folder the filter lists are")
    files = {name: {"path": f"{lists.rstrip('/')}/{name}.txt"} for name in entity.get("list", ())}
    service = _service(rest[1]) if len(rest) > 1 else {}
    text = " ".join([sign, *rest])
    made: list[dict[str, Any]] = []
    missing = next((key for key in _MISSING if key in entity), None)
    if missing:
        name = found.name(f"{text}, nothing known")
        made.append({"name": name, "direction": direction, missing: "", "verdict": "block"})
    name = found.name(text)
    made.append({"name": name, "direction": direction, **entity, **service, "verdict": _VERDICTS[sign]})
    found.add(made, files)
    names = [rule["name"] for rule in made]
    if comment:
        found.comments[names[0]] = comment
    found.carried(place, " and ".join(f"rule {name!r}" for name in names))


def _entity(text: str, sign: str) -> dict[str, Any]:  # noqa: PLR0911 # one for each kind
    """The dimension that an entity is about."""
    if text == "*":
        return {}
    try:
        return {"remote": str(ip_network(text, strict=False) if "/" in text else ip_address(text))}
    except ValueError:
        pass
    scopes = [word.lower() for word in text.split(",")]
    if all(word in _SCOPES for word in scopes):
        networks = [network for word in scopes for network in _SCOPES[word]]
        if "internet" in scopes:
            networks += _global_multicast()
        return {"remote": networks}
    if text.startswith("C:"):
        if text[2:].upper() not in CONTINENTS:
            raise CannotCarryError(f"there is no continent {text[2:]!r}")
        return {"continent": text[2:].upper()}
    if re.fullmatch(r"[A-Z]{2}", text):
        return {"country": text}
    if re.fullmatch(r"AS[0-9]{1,10}", text):
        return {"asn": text}
    if text.startswith("L:"):
        names = text[2:].split(",")
        if not all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names):
            raise CannotCarryError(f"{text!r} names no filter lists")
        return {"list": names}
    if not _DOMAIN.fullmatch(text):
        raise CannotCarryError(f"{text!r} is no entity")
    parse_name(text)
    return {"host" if sign == "-" else "asked_host": text.rstrip(".").lower()}


def _global_multicast() -> list[str]:
    networks: list[Network] = [ip_network("224.0.0.0/4"), ip_network("ff00::/8")]
    for local in ("224.0.0.0/24", "239.0.0.0/8", "ff02::/16", "ff05::/16"):
        networks = without(networks, ip_network(local))
    return [str(network) for network in networks]


def _service(text: str) -> dict[str, Any]:
    """The protocol and the ports."""
    name, slash, ports = text.partition("/")
    protocol = _protocol(name)
    if not slash:
        return {} if protocol == "" else {"protocol": protocol}
    first, dash, last = ports.partition("-")
    numbers = [_port(first), _port(last)] if dash and ports.lower() not in SERVICES else [_port(ports)] * 2
    if numbers[0] > numbers[1]:
        raise CannotCarryError(f"the ports {ports} run backwards")
    span = f"{numbers[0]}-{numbers[1]}" if numbers[0] != numbers[1] else str(numbers[0])
    if protocol == "":
        return {"port": span}
    if protocol not in _WITH_PORTS:
        raise CannotCarryError(f"{name} has no ports here")
    return {"port": f"{span}/{protocol}"}


def _protocol(name: str) -> str | int:
    """The word of a protocol, "" for any."""
    if name == "*":
        return ""
    word = name.lower()
    if word.isdecimal() and int(word) < 256:
        number = int(word)
    elif word in PROTOCOLS:
        number = PROTOCOLS[word]
    else:
        raise CannotCarryError(f"there is no protocol {name!r}")
    known = protocol_name(number)
    return number if known.isdecimal() else known


def _port(text: str) -> int:
    if text.isdecimal() and len(text) < 6 and int(text) < 65536:
        return int(text)
    if text.lower() in SERVICES:
        return SERVICES[text.lower()]
    raise CannotCarryError(f"{text!r} is no port")
