"""Where the symbolic links of this host lead that rules name as programs: the kernel tells of the executable itself.

What has been found is kept for as long as no directory on the way to it changes; so a new policy costs a look at each
of these directories, and at what is new in it.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from typing import Any, NamedTuple

from tidewaiter.policy.bits import same_ends
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Rule, Values

_MOST_LINKS = 40
"""Links on one way (MAXSYMLINKS, linux/namei.h); then it is left as it is."""

_YOUNG = 2_000_000_000
"""Nanoseconds within which a directory may change again and keep its time."""

KEPT = 65536
"""Paths that are kept; when there are more, all go."""

_MISSING = ""


class _Directory(NamedTuple):
    """What a directory was like, and where the names in it lead that were looked at; None for what is no link."""

    signature: tuple[int, ...] | None
    links: dict[str, str | None]


class Symlinks:
    """The symbolic links of this host, looked at again when a directory has changed."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._directories: dict[str, _Directory] = {}
        self._known: dict[str, str] = {}
        self._rules: tuple[tuple[Rule, ...], tuple[Rule, ...]] = (
            (),
            (),
        )  # the last ones, and what became of them

    def follow(self, policy: Policy) -> Policy:
        """The same policy; each rule also has what the links in it lead to. A rule that stays is the same object."""
        self._look_again()
        new, (old, followed) = policy.rules, self._rules
        first, last = same_ends(old, new)
        middle = map(self._followed, new[first : len(new) - last])
        rules = (*followed[:first], *middle, *followed[len(old) - last :])
        self._rules = new, rules
        return replace(policy, rules=rules)

    def resolve(self, path: str) -> str:
        """An absolute path without links in it, as far as it exists."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._walk(path)
        return found

    def _followed(self, rule: Rule) -> Rule:
        named = self._programs(rule.programs)
        if named == rule.programs and not (rule.any_of or rule.none_of or rule.also):
            return rule
        found = replace(
            rule,
            programs=named,
            any_of=self._values(rule.any_of),
            none_of=self._values(rule.none_of),
            also=tuple(
                replace(one, any_of=self._values(one.any_of), none_of=self._values(one.none_of))
                for one in rule.also
            ),
        )
        return rule if found == rule else found

    def _values(self, values: Values) -> Values:
        programs = values.get("program")
        return {**values, "program": self._programs(programs)} if programs else values

    def _programs(self, names: tuple[Any, ...]) -> tuple[Any, ...]:
        leading = [self.resolve(name) for name in names if isinstance(name, str) and name.startswith("/")]
        return (*names, *[name for name in dict.fromkeys(leading) if name not in names])

    def _look_again(self) -> None:
        changed = [
            path
            for path, one in self._directories.items()
            if one.signature is None or _signature(path) != one.signature or len(self._known) > KEPT
        ]
        if changed:
            for path in changed:
                del self._directories[path]
            self._known.clear()
            self._rules = (), ()

    def _walk(self, path: str) -> str:
        at, rest, links = "/", path.split("/")[::-1], 0
        while rest:
            name = rest.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                at = os.path.dirname(at)  # noqa: PTH120 # of a path that has no links
                continue
            target = self._link(at, name)
            if target == _MISSING:  # so nothing below it can be a link
                return os.path.normpath("/".join([at.rstrip("/"), name, *rest[::-1]]))
            if target is None:
                at = f"{at.rstrip('/')}/{name}"
                continue
            links += 1
            if links > _MOST_LINKS:
                return path
            at = "/" if target.startswith("/") else at
            rest += target.split("/")[::-1]
        return at

    def _link(self, directory: str, name: str) -> str | None:
        """Where a link leads; None for what is none, `_MISSING` for what is not there or may not be seen."""
        found = self._directories.get(directory)
        if found is None:
            found = self._directories[directory] = _Directory(_signature(directory), {})
        if name not in found.links:
            try:
                found.links[name] = os.readlink(f"{directory.rstrip('/')}/{name}")  # noqa: PTH115 # many
            except OSError as error:
                found.links[name] = None if error.errno == errno.EINVAL else _MISSING
        return found.links[name]


def _signature(directory: str) -> tuple[int, ...] | None:
    """What is another when an entry of a directory has changed; None when that cannot be told."""
    try:
        found = os.stat(directory)  # noqa: PTH116 # many
    except OSError:
        return None
    if time.time_ns() - found.st_mtime_ns < _YOUNG:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
