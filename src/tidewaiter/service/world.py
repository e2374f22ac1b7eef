"""What the rules of a policy look things up in, read from where the policy says: lists, and where addresses are.

Whoever decides by a policy reads it here: a running firewall, an owner at a device, ``policy explain`` and ``test``, a
replay. What no rule names is not read. What cannot be read is told in one sentence; the version that was there before
stays, or nothing is listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from glob import glob
from pathlib import Path
from threading import Lock

from tidewaiter.lists import CompiledList, Union
from tidewaiter.names.resolvers import EncryptedDns
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Conditions, MemberList, Rule, World
from tidewaiter.policy.settings import ListSource
from tidewaiter.service.lists import State, Subscription, tidy
from tidewaiter.service.places import Places

Say = Callable[[str], object]

FILES = 100
"""The files of one list, each of which is looked into for each connection that gets that far."""

SOON, LATE = 10.0, 600.0
"""Seconds until a server that failed is asked again: at first, and at most, each time twice as many."""

_BUILT_IN: dict[str, MemberList] = {"encrypted-dns": EncryptedDns()}

_PLACES = frozenset(("country", "continent", "asn"))
_SIGNS = "*?["


def _stamp(path: str) -> tuple[int, ...] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Feed:
    """One source of a list: a file, read when it has changed, or a server, asked every ``every`` seconds.

    A feed may be looked at from several threads: each waits for the other.
    """

    def __init__(self, one: Subscription, every: float) -> None:
        self.one, self.every = one, every
        self._lock = Lock()
        self._due = 0.0
        self._stamp: tuple[int, ...] | None = ()
        self._failures = 0
        self._said = ""  # what is wrong is told once, however often it is tried
        one.restore()

    @property
    def list(self) -> CompiledList | None:
        """The list in use."""
        return self.one.list

    def look(self, say: Say, *, quiet: bool = False) -> None:
        """Takes a newer version if it is time to ask for one. ``quiet``: what is as it should be is not told."""
        with self._lock:
            now, stamp = time.monotonic(), None
            if not self.one.remote:  # what changes while it is read has another stamp next time
                stamp = _stamp(self.one.source)
            due = now >= self._due if self._failures or self.one.remote else False
            if not due and stamp == self._stamp:
                return
            outcome, self._stamp = self.one.refresh(), stamp
            failed = outcome.state is State.FAILED
            self._failures = self._failures + 1 if failed else 0
            again = min(SOON * 2 ** min(self._failures - 1, 16), LATE) if failed else self.every
            self._due = now + again
            bad = self.list is not None and self.list.counts.bad
            news = outcome.state is State.NEW and (bad or not quiet)
            if news or (failed and outcome.sentence != self._said):
                say(outcome.sentence)
            self._said = outcome.sentence if failed else ""


class Geography:
    """The files that say where addresses are, read again when they change."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.places: Places | None = None
        self._lock = Lock()
        self._stamps: list[tuple[int, ...] | None] = []

    def look(self, say: Say) -> None:
        """Reads them if they have changed. Those that were there stay when the new ones are bad."""
        with self._lock:
            stamps = [_stamp(path) for path in self.files.values()]
            if stamps == self._stamps:
                return
            self._stamps = stamps
            try:
                self.places = Places(**self.files)
            except (OSError, ValueError) as error:
                say(f"where addresses are {'stays as it was' if self.places else 'is not known'}: {error}")


class Sources:
    """All that the rules of one policy are looked up in: `world` is what it says now.

    ``state`` is the folder that lists are kept in, None for nowhere; with ``servers_only`` files are not kept there,
    but read each time. What ``others`` (of the policy before) have read is taken from them. Files are read here and
    now, of servers only what was kept: `ask_servers` is for a thread that has time.
    """

    def __init__(
        self,
        policy: Policy,
        state: Path | None,
        say: Say,
        others: Sources | None = None,
        *,
        servers_only: bool = False,
    ) -> None:
        self.policy, self._say, self._servers_only = policy, say, servers_only
        self._folder = None if state is None else state / "lists"
        self._base = Path(policy.files[0]).parent if policy.files else Path()
        self._told: set[str] = set()
        named, places = _named(policy)
        self._lists = {name: source for name, source in policy.lists.items() if name in named}
        self._built_in = {name: _BUILT_IN[name] for name in named if name not in policy.lists}
        self._feeds: dict[tuple[str, str, str], Feed] = others._feeds if others else {}
        self._servers = {
            name: {url: self._feed(name, url, source) for url in source.urls}
            for name, source in self._lists.items()
        }
        self._files: dict[str, dict[str, Feed]] = {}
        files = {key: str(self._base / path) for key, path in policy.geography.items() if places}
        known: Geography | None = others._geography if others is not None else None
        self._geography: Geography = known if known is not None and known.files == files else Geography(files)
        self._shown: list[object] = []
        self.look_at_files(quiet=True)

    def look_at_files(self, *, quiet: bool = False) -> None:
        """Reads the files that are new or have changed."""
        files = {
            name: {path: self._feed(name, path, source) for path in self._paths(name, source)}
            for name, source in self._lists.items()
        }
        for feed in (feed for feeds in files.values() for feed in feeds.values()):
            feed.look(self._say, quiet=quiet)
        self._files = files
        self._feeds = {
            (name, where, source.format): feed
            for name, source in self._lists.items()
            for where, feed in (files[name] | self._servers[name]).items()
        }
        self._geography.look(self._say)

    def ask_servers(self, done: Callable[[], bool]) -> None:
        """Asks each server whose time has come, and stops where ``done``, called behind each, says so."""
        for feed in (feed for feeds in self._servers.values() for feed in feeds.values()):
            feed.look(self._say)
            if done():
                return

    def missing(self) -> dict[str, Feed]:
        """The URLs whose lists are not there."""
        return {
            url: feed for feeds in self._servers.values() for url, feed in feeds.items() if feed.list is None
        }

    def tidy(self) -> None:
        """Removes what is kept of lists that are no more: before anybody looks for what is new. Raises OSError."""
        if self._folder is not None:
            tidy(self._folder, [feed.one for feed in self._feeds.values()])

    def world(self) -> World:
        """What the rules are looked up in, as it is now."""
        self._shown = self._parts()
        lists: dict[str, MemberList] = {name: Union(self._compiled(name)) for name in self._lists}
        lists |= self._built_in
        return World(lists, self._geography.places)

    @property
    def stale(self) -> bool:
        """Whether `world` would say something else than it did last."""
        return list(map(id, self._parts())) != list(map(id, self._shown))

    def _parts(self) -> list[object]:
        return [*(one for name in self._lists for one in self._compiled(name)), self._geography.places]

    def _compiled(self, name: str) -> list[CompiledList]:
        feeds = self._files[name] | self._servers[name]
        return [one for feed in feeds.values() if (one := feed.list) is not None]

    def _feed(self, name: str, where: str, source: ListSource) -> Feed:
        feed = self._feeds.get((name, where, source.format))
        if feed is None:
            make = partial(Subscription, name, where, source.format)
            folder = None if self._servers_only and where not in source.urls else self._folder
            try:
                one = make(folder)
            except OSError as error:
                self._once(f"lists are not kept: {error.filename}: {error.strerror}")
                one = make(None)
            feed = Feed(one, source.refresh)
        feed.every = source.refresh
        return feed

    def _paths(self, name: str, source: ListSource) -> list[str]:
        found: dict[str, None] = {}
        for path in source.paths:
            those = [path]
            if any(sign in path for sign in _SIGNS):
                those = sorted(glob(path, root_dir=self._base))  # noqa: PTH207  # which has no root_dir
                if not those:
                    self._once(f"list {name!r} has no files: there is none like {self._base / path}")
            found |= dict.fromkeys(str(self._base / one) for one in those)
        if len(found) > FILES:
            self._once(f"list {name!r} has more than {FILES} files: the first {FILES} are read")
        return list(found)[:FILES]

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)


def _named(policy: Policy) -> tuple[set[str], bool]:
    """The lists that rules name, and whether one asks where an address is."""
    lists: set[str] = set()
    if "list" in policy.further:
        for rule in policy.rules:
            tables: tuple[Rule | Conditions, ...] = (rule, *rule.also)
            for one in tables:
                lists.update(one.any_of.get("list", ()), one.none_of.get("list", ()))
    return lists, bool(policy.further & _PLACES)


def read_world(policy: Policy, state: Path | None, say: Say) -> World:
    """The world of a policy for a command that decides once: what servers have and was not kept is fetched now."""
    sources = Sources(policy, state, say, servers_only=True)
    for feed in sources.missing().values():
        feed.look(say, quiet=True)
    return sources.world()
