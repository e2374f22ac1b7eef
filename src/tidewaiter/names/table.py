"""The names that DNS has taught: which names an address had, for whom, and for how long.

An answer is kept for whoever asked: a program in a network namespace. So two programs that got the same address
by different names are told apart. What a resolver of this host asked on behalf of others (systemd-resolved by its
own socket, nscd) is kept for everybody in its namespace, and counts only for a program that has nothing of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from itertools import islice
from typing import NamedTuple

from tidewaiter.model.key import Address
from tidewaiter.names.dns import Kind, Message, Record, Service

SECOND = 1_000_000_000
SHORTEST = 60 * SECOND
"""An answer is believed for so long at least, in nanoseconds: programs keep what has a lifetime of 0, too."""

LONGEST = 86_400 * SECOND
"""And for so long at most (RFC 8767 section 4 warns of long lifetimes)."""

GRACE = 60 * SECOND
"""For so long after its last connection is over, an address keeps its names: programs come back."""

ROOM = 1_500_000
"""How many characters the names of all addresses have together, each address counted as `ADDRESS` more.

That is some 15,000 addresses. Then the asker with the most loses the address that it used least recently, so that no
program can make the names of another go.
"""

ADDRESS = 64

ANSWERS = 64
"""How many addresses one message teaches; others in it are left out."""

NAMES = 8
"""How many names an address has for one asker; then the one that ends first gives way."""

LINKS = 16
"""How many aliases are followed. Resolvers follow about as many."""


class Asker(NamedTuple):
    """Who asks: a program (or a control group, whatever its owner is told apart by) in a network namespace.

    ``program`` "" is everybody in the namespace.
    """

    namespace: int
    program: str = ""


class Known(NamedTuple):
    """A name of an address. ``chain`` are the aliases that led to it, in their order, without ``name`` itself.

    Until ``until`` (nanoseconds) it is believed. ``own``: the program itself has asked.
    """

    name: str
    chain: tuple[str, ...]
    until: int
    own: bool = True


@dataclass(slots=True)
class _Names:
    """The names of one address for one asker, the last learnt at the end, and its open connections."""

    known: dict[str, Known] = field(default_factory=dict)
    open: int = 0

    @property
    def size(self) -> int:
        """How many characters they count for."""
        return ADDRESS + sum(len(one.name) + sum(map(len, one.chain)) for one in self.known.values())

    def learn(self, name: str, chain: tuple[str, ...], until: int) -> bool:
        """Whether another name had to give way."""
        before = self.known.pop(name, None)
        if before is not None and before.chain == chain:
            until = max(until, before.until)
        full = len(self.known) >= NAMES
        if full:
            del self.known[min(self.known, key=lambda name: self.known[name].until)]
        self.known[name] = Known(name, chain, until)
        return full

    def over(self, now: int) -> list[str]:
        """The names whose time is over; none while a connection is open."""
        return [] if self.open else [one.name for one in self.known.values() if one.until <= now]


class _Learnt:
    """What one asker has learnt, the address that it used least recently first. ``size`` is in characters."""

    def __init__(self) -> None:
        self.size = 0
        self.addresses: OrderedDict[bytes, _Names] = OrderedDict()

    def learn(self, address: bytes, links: tuple[str, ...], until: int) -> tuple[Known, bool]:
        """The name of an address, and whether another one had to give way."""
        names = self.addresses.get(address)
        if names is None:
            names = self.addresses[address] = _Names()
        else:
            self.size -= names.size
        self.addresses.move_to_end(address)
        gave_way = names.learn(links[0], links[1:], until)
        self.size += names.size
        return names.known[links[0]], gave_way

    def look(self, address: bytes, now: int) -> _Names | None:
        """The names of an address, if there are any that are not over."""
        names = self.addresses.get(address)
        if names is None:
            return None
        over = names.over(now)
        if over:
            self.size -= names.size
            for name in over:
                del names.known[name]
            if not names.known:
                del self.addresses[address]
                return None
            self.size += names.size
        self.addresses.move_to_end(address)
        return names

    def give_way(self) -> None:
        """Forgets the address that was used least recently."""
        _, names = self.addresses.popitem(last=False)
        self.size -= names.size


class Table:
    """What DNS has taught. Times are nanoseconds of any clock that does not go back.

    ``gave_way`` counts the addresses and names that were forgotten before their time because there was no room.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.gave_way = 0
        self._room = room
        self._askers: dict[Asker, _Learnt] = {}

    def __len__(self) -> int:
        return sum(len(learnt.addresses) for learnt in self._askers.values())

    def __bool__(self) -> bool:
        return bool(self._askers)

    @property
    def size(self) -> int:
        """How many characters are in use."""
        return sum(learnt.size for learnt in self._askers.values())

    def learn(self, asker: Asker, message: Message, now: int) -> list[tuple[Address, Known]]:
        """Keeps what an answer says, and returns each address that it named, with its name.

        Only what the question leads to is believed: a server may add whatever it likes. Whether the asker has
        asked that question is for the caller to know: an answer that reaches the asker's own socket, from the
        peer that the socket asked, is as good as the program's own belief in it.
        """
        if not message.response or message.code or len(message.questions) != 1:
            return []
        found = []
        learnt = self._askers.get(asker)
        for address, links, ttl in islice(_addresses(message), ANSWERS):
            if learnt is None:
                learnt = self._askers[asker] = _Learnt()
            until = now + min(max(ttl * SECOND, SHORTEST), LONGEST)
            known, gave_way = learnt.learn(_packed(address), links, until)
            self.gave_way += gave_way
            found.append((address, known))
        if found:
            self._make_room()
        return found

    def find(self, asker: Asker, address: Address, now: int) -> tuple[Known, ...]:
        """The names of an address for this asker, the last learnt first; or those that all share, not ``own``."""
        return self.find_packed(asker, _packed(address), now)

    def find_packed(self, asker: Asker, address: bytes, now: int) -> tuple[Known, ...]:
        """The same for an address of 4 bytes, or of 16 that are not IPv4: quicker, for what is held."""
        names = self._look(asker, address, now)
        if names is not None:
            return tuple(reversed(names.known.values()))
        names = self._look(Asker(asker.namespace), address, now) if asker.program else None
        if names is not None:
            return tuple(known._replace(own=False) for known in reversed(names.known.values()))
        return ()

    def opened(self, asker: Asker, address: Address, now: int) -> None:
        """A connection to this address begins: its names are kept until `closed`."""
        names = self._look(asker, _packed(address), now)
        if names is not None:
            names.open += 1

    def closed(self, asker: Asker, address: Address, now: int) -> None:
        """And is over: the names are kept for a little longer."""
        names = self._look(asker, _packed(address), now)
        if names is None or not names.open:
            return
        names.open -= 1
        if not names.open:
            for name, known in names.known.items():
                names.known[name] = known._replace(until=max(known.until, now + GRACE))

    def expire(self, now: int) -> int:
        """Forgets all that is over, and returns how many addresses. Nothing depends on when this is called."""
        before = len(self)
        for asker, learnt in list(self._askers.items()):
            for address, names in list(learnt.addresses.items()):
                if names.over(now):
                    learnt.look(address, now)
            if not learnt.addresses:
                del self._askers[asker]
        return before - len(self)

    def forget(self, asker: Asker) -> None:
        """Forgets what one asker has learnt, as when its namespace is gone."""
        self._askers.pop(asker, None)

    def _look(self, asker: Asker, address: bytes, now: int) -> _Names | None:
        learnt = self._askers.get(asker)
        if learnt is None:
            return None
        names = learnt.look(address, now)
        if not learnt.addresses:
            del self._askers[asker]
        return names

    def _make_room(self) -> None:
        size = self.size
        while size > self._room:
            asker, learnt = max(self._askers.items(), key=lambda item: item[1].size)
            size -= learnt.size
            learnt.give_way()
            size += learnt.size
            self.gave_way += 1
            if not learnt.addresses:
                del self._askers[asker]


def _packed(address: Address) -> bytes:
    """IPv4 in IPv6 is IPv4: so the connection to it will look."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed


def _addresses(message: Message) -> Iterator[tuple[Address, tuple[str, ...], int]]:
    """Each address that the question leads to, the names on the way, and the shortest lifetime on it."""
    owners: dict[str, list[Record]] = {}
    for record in message.records:
        owners.setdefault(record.owner, []).append(record)
    way: list[tuple[tuple[str, ...], int]] = [((message.questions[0].name,), LONGEST)]
    seen = {message.questions[0].name}
    for links, lifetime in way:  # grows while it is walked
        for record in owners.get(links[-1], ()):
            ttl = min(lifetime, record.ttl)
            onward = ""
            if record.kind is Kind.CNAME and isinstance(record.value, str):
                onward = record.value
            elif isinstance(record.value, Service):
                onward = record.value.target
                hinted = (*links, onward) if onward and onward not in links else links
                for address in record.value.addresses:
                    yield address, hinted, ttl
            elif not isinstance(record.value, str):
                yield record.value, links, ttl
            if onward and onward not in seen and len(way) < LINKS:
                seen.add(onward)
                way.append(((*links, onward), ttl))
