"""The policy: its rules and what belongs to them, from a TOML file and the files that it includes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from tidewaiter.model.key import Address, Direction
from tidewaiter.policy import reader
from tidewaiter.policy.dimensions import Names
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.index import uncollected
from tidewaiter.policy.rule import Answer, Conditions, Rule
from tidewaiter.policy.settings import ListSource, NetworkProfile
from tidewaiter.policy.words import ENDING, user_id

VERSION = reader.VERSION
"""The version of the format that is read."""

MAX_SIZE = 4 * 1024 * 1024
"""The largest policy file, in bytes."""

MAX_FILES = 1000
"""How many files a policy may include."""

_MADE_BY_PROMPTS = ("restart", *ENDING)


@dataclass(frozen=True)
class Policy:
    """Ordered rules, the first that matches wins, and an answer per direction for when none does.

    A direction that is missing from ``defaults`` is accepted. ``groups`` says of each group of rules whether it is
    switched on; a group that is not there is. ``lists``, ``networks`` and ``geography`` are what rules refer to:
    where lists come from, the profiles of networks, and the files in MaxMind's format by what they tell (``country``,
    ``asn``). ``files`` are those that it was read from, ``folders`` those in which it looked for more.
    """

    rules: tuple[Rule, ...] = ()
    defaults: Mapping[Direction, Answer] = field(default_factory=dict, hash=False)
    groups: Mapping[str, bool] = field(default_factory=dict, hash=False)
    lists: Mapping[str, ListSource] = field(default_factory=dict, hash=False)
    networks: Mapping[str, NetworkProfile] = field(default_factory=dict, hash=False)
    geography: Mapping[str, str] = field(default_factory=dict, hash=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    folders: tuple[str, ...] = field(default=(), compare=False)

    def default(self, direction: Direction) -> Answer:
        """The answer for a connection that no rule matches."""
        return self.defaults.get(direction, Answer.ACCEPT)

    @property
    def groups_off(self) -> frozenset[str]:
        """The groups of rules that are switched off."""
        return frozenset(name for name, on in self.groups.items() if not on)

    @cached_property
    def further(self) -> frozenset[str]:
        """The dimensions that some rule names, of those that a `Rule` has no field of its own for."""
        also = [one for rule in self.rules if rule.also for one in rule.also]
        tables: tuple[Rule | Conditions, ...] = (*self.rules, *also)
        wanted, refused = (
            [one.any_of for one in tables if one.any_of],
            [one.none_of for one in tables if one.none_of],
        )
        return frozenset().union(*wanted, *refused)

    def is_on(self, rule: Rule) -> bool:
        """Whether a rule can match at all."""
        return rule.enabled and self.groups.get(rule.group, True)

    @classmethod
    def parse(
        cls, text: str, where: str = "policy.toml", find_user: Callable[[str], int] = user_id
    ) -> Policy:
        """The policy that a TOML text describes (docs/reference/policy.md). Raises `PolicyError`.

        ``find_user`` turns a user's name into a uid and raises KeyError for an unknown one; by default it
        asks this host's user database. What the text would include is not read.
        """
        main = reader.Reader(text, where)
        list(main.includes())  # what is wrong with them is said all the same
        return cls._of([main], Names(user=find_user))

    @classmethod
    def load(
        cls, path: str | Path, names: Names | None = None, instead: Mapping[str, str] | None = None
    ) -> Policy:
        """The policy of a file in UTF-8 and of those that it includes. Raises `PolicyError`, also where it cannot read.

        ``names`` says what the names of users and groups stand for; by default it is this host who says it. ``instead``
        has texts by the paths of files, as `files` has them: they are taken for what these files hold.
        """
        texts = instead or {}
        main = reader.Reader(_read(path, texts), str(path))
        readers, folders = [main], []
        for pattern, error in main.includes():
            try:
                found = sorted(Path(path).parent.glob(pattern))
            except (ValueError, NotImplementedError):
                raise error("cannot be included", "write it like policy.d/*.toml") from None
            folders.append(str((Path(path).parent / pattern).parent))
            if not found and not any(sign in pattern for sign in "*?["):
                raise error("is not there", "write the path of a file, seen from this one")
            readers += [
                reader.Reader(_read(one, texts), str(one), main=False) for one in found if one.is_file()
            ]
            if len(readers) > MAX_FILES:
                raise error(f"are more than {MAX_FILES} files", "put rules together into fewer files")
        return cls._of(readers, names or Names(), tuple(dict.fromkeys(folders)))

    @classmethod
    def _of(cls, readers: list[reader.Reader], names: Names, folders: tuple[str, ...] = ()) -> Policy:
        settings = reader.Settings()
        for one in readers:
            one.settings(settings)
        names = replace(names, list=settings.find_list, network=settings.find_network)
        rules: list[Rule] = []
        seen: dict[str, Rule] = {}
        with uncollected():
            for one in readers:
                rules += one.rules(names, seen)
        return cls(
            tuple(rules),
            readers[0].defaults(),
            settings.groups,
            settings.lists,
            settings.networks,
            settings.geography,
            tuple(one.where for one in readers),
            folders,
        )

    def at_start(self) -> Policy:
        """The same policy without the rules whose life has ended with the firewall that they were made in."""
        rules = tuple(rule for rule in self.rules if rule.until not in _MADE_BY_PROMPTS)
        return self if len(rules) == len(self.rules) else replace(self, rules=rules)

    def network(
        self, interfaces: tuple[str, ...] = (), gateways: tuple[Address, ...] = (), wifi: str = ""
    ) -> tuple[str, ...]:
        """The profiles of the network that this host is in; none of them is ``elsewhere``."""
        return tuple(
            name for name, profile in self.networks.items() if profile.is_here(interfaces, gateways, wifi)
        )


def _read(path: str | Path, instead: Mapping[str, str]) -> str:
    where = str(path)
    try:
        if where in instead:
            data = instead[where].encode()
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "check its path and its permissions"
        raise PolicyError(where, 1, 1, f"the file cannot be read ({reason})", remedy) from None
    if len(data) > MAX_SIZE:
        raise PolicyError(where, 1, 1, f"the file has more than {MAX_SIZE} bytes", "make it smaller")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise PolicyError(where, line, column, "this is not UTF-8", "save the file as UTF-8") from None
