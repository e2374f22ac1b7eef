"""Which program used which local port: what a capture cannot know, from a file next to it.

For ``web.pcap`` the file is ``web.programs.json``: an object with a member for each local port::

    {"53124/tcp": {"program": "/usr/bin/curl", "pid": 4711, "user": "anna", "uid": 1000, "arguments": []}}

``program`` must be there, the others need not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidewaiter.model.key import Protocol
from tidewaiter.model.process import Process
from tidewaiter.replay.capture import CaptureError

MAX_SIZE = 1 << 22
"""The largest file of programs, in bytes."""

Programs = Mapping[tuple[int, int], Process]
"""The programs by protocol number and local port."""

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP}
_MEMBERS: dict[str, tuple[type, str]] = {
    "program": (str, "text"),
    "pid": (int, "a number"),
    "user": (str, "text"),
    "uid": (int, "a number"),
    "arguments": (list, "a list of text"),
}


def programs_file(capture: Path) -> Path:
    """Where the programs of a capture are described, if they are."""
    return capture.with_suffix(".programs.json")


def read_programs(path: Path) -> Programs:
    """The programs that a file describes; none for a file that is not there. Raises CaptureError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return parse_programs(data)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from None


def parse_programs(data: bytes) -> Programs:
    """The programs that a JSON text describes. Raises CaptureError."""
    if len(data) > MAX_SIZE:
        raise CaptureError(f"the file of programs has more than {MAX_SIZE} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"this is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise CaptureError('write an object with a member for each local port, such as "53124/tcp"')
    return {_port(name): _process(name, value) for name, value in document.items()}


def _port(name: str) -> tuple[int, int]:
    number, _, protocol = name.partition("/")
    if protocol in _PROTOCOLS and number.isascii() and number.isdigit() and len(number) <= 5:
        port = int(number)
        if port <= 65535:
            return _PROTOCOLS[protocol], port
    raise CaptureError(f'{_shown(name)} is no local port: write it like "53124/tcp" or "5353/udp"')


def _process(name: str, value: Any) -> Process:  # noqa: ANN401 - it is what JSON had
    if not isinstance(value, dict) or "program" not in value:
        raise CaptureError(f'{name} has no program: write it like {{"program": "/usr/bin/curl"}}')
    for member, content in value.items():
        if member not in _MEMBERS:
            raise CaptureError(f"{name} has {_shown(member)}: it may have {', '.join(_MEMBERS)}")
        kind, words = _MEMBERS[member]
        if type(content) is not kind:
            raise CaptureError(f"the {member} of {name} is {_shown(content)}: write {words}")
    arguments = value.get("arguments", [])
    if not all(isinstance(argument, str) for argument in arguments):
        raise CaptureError(f"the arguments of {name} are {_shown(arguments)}: write a list of text")
    return Process(
        pid=value.get("pid", 0),
        path=value["program"],
        arguments=tuple(arguments),
        uid=value.get("uid", -1),
        user=value.get("user", ""),
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
