"""What a running firewall leaves where others find it: the pins below bpffs and a small file in /run.

The file is written before each step that it describes, so that `cleanup` finds everything even after a crash in the
middle of a step. One *instance* is one name: ``host`` for the machine, a lab's name for a lab.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tidewaiter.host.hold import HoldRules, Method
from tidewaiter.host.processes import read_process
from tidewaiter.kernel import bpffs

PINS = bpffs.BPFFS / "tidewaiter"
RUN = Path("/run/tidewaiter")
_KINDS = {
    **dict.fromkeys(("name", "build", "mode", "cgroup"), str),
    **dict.fromkeys(("pid", "started", "serial"), int),
    **dict.fromkeys(("namespaces", "holds", "rules", "redirect"), tuple),
    **dict.fromkeys(("fail_open", "complete"), bool),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class StateError(ValueError):
    """A state file that cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class State:
    """One instance, of the process ``pid`` that began at ``started`` (nanoseconds since boot, as `read_process` says).

    ``serial`` tells the pin directories of two generations apart. ``complete``: all of it is there and in force.
    """

    name: str
    pid: int
    started: int
    serial: int
    build: str
    mode: str
    fail_open: bool
    cgroup: str
    namespaces: tuple[str, ...]
    holds: tuple[dict[str, Any], ...] = ()
    rules: tuple[str, ...] = ()
    redirect: tuple[int, ...] = ()
    complete: bool = False

    @property
    def pins(self) -> Path:
        """The pin directory."""
        return PINS / self.name / str(self.serial)

    @property
    def alive(self) -> bool:
        """Whether the process that wrote this still runs."""
        process = read_process(self.pid)
        # one that has ended, but was not waited for yet, has no arguments any more
        return process is not None and process.started == self.started and bool(process.arguments)

    def same_as(self, other: State) -> bool:
        """Whether what ``other`` left in the kernel serves this one as it is."""
        fields = ("name", "build", "mode", "fail_open", "cgroup", "namespaces", "redirect")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def hold_rules(self) -> list[tuple[HoldRules, Method]]:
        """The hold rules that were installed, or were about to be."""
        return [
            (
                HoldRules(
                    Path(hold["where"]),
                    Path(hold["out"]),
                    Path(hold["into"]),
                    hold["queue"],
                    hold["fail_open"],
                    tuple(hold["redirect"]),
                ),
                Method(hold["method"]),
            )
            for hold in self.holds
        ]

    def with_hold(self, rules: HoldRules, method: Method) -> State:
        """The same with one more set of hold rules."""
        hold = {
            **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(rules).items()},
            "redirect": list(rules.redirect),
            "method": method.value,
        }
        return replace(self, holds=(*self.holds, hold))

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = _path(self.name)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({field.name: getattr(self, field.name) for field in fields(self)}))
        part.replace(path)

    def forget(self) -> None:
        """Removes the file."""
        _path(self.name).unlink(missing_ok=True)


def check_name(name: str) -> str:
    """An instance's name, safe as a file name. Raises StateError."""
    if not _NAME.fullmatch(name):
        raise StateError(f"{name!r} cannot name a firewall: letters, digits, - and _, at most 63")
    return name


def load(name: str) -> State | None:
    """The instance of that name, or None. Raises StateError for a damaged file."""
    path = _path(check_name(name))
    try:
        return _parse(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is damaged ({error}); remove it and run `tidewaiter cleanup`") from error


def _parse(text: str) -> State:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    for name, kind in _KINDS.items():
        if type(fields[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    if not all(isinstance(text, str) for text in (*fields["namespaces"], *fields["rules"])):
        raise ValueError("a name is no str")
    parsed = State(**fields)
    parsed.hold_rules()
    return parsed


def names() -> list[str]:
    """Every instance that left a state file or pins."""
    files = {path.stem for path in RUN.glob("*.json")} if RUN.is_dir() else set()
    pins = {path.name for path in PINS.iterdir() if path.is_dir()} if PINS.is_dir() else set()
    return sorted(files | pins)


def _path(name: str) -> Path:
    return RUN / f"{name}.json"
