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

ADDRESSES = 16_384
"""How many addresses, of all askers together, have names; then the least recently used gives way."""

TEXT = 4_194_304
"""How many characters all these names have together; then too the least recently used gives way."""

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
        """How many characters they have."""
        return sum(map(_size, self.known.values()))

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

    def expire(self, now: int) -> int:
        """Forgets what is over, not while a connection is open; how many characters that were."""
        if self.open:
            return 0
        over = [known for known in self.known.values() if known.until <= now]
        for known in over:
            del self.known[known.name]
        return sum(map(_size, over))


class Table:
    """What DNS has taught. Times are nanoseconds of any clock that does not go back.

    ``gave_way`` counts the addresses and names that were forgotten before their time because there was no room.
    """

    def __init__(self, addresses: int = ADDRESSES, text: int = TEXT) -> None:
        self.gave_way = 0
        self._room, self._text = addresses, text
        self._size = 0
        self._table: OrderedDict[tuple[Asker, bytes], _Names] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def learn(self, asker: Asker, message: Message, now: int) -> list[tuple[Address, Known]]:
        """Keeps what an answer says, and returns each address that it named, with its name.

        Only what the question leads to is believed: a server may add whatever it likes. Whether the asker has
        asked that question is for the caller to know: an answer that reaches the asker's own socket, from the
        peer that the socket asked, is as good as the program's own belief in it.
        """
        if not message.response or message.code or len(message.questions) != 1:
            return []
        learnt = []
        for address, links, ttl in _addresses(message):
            until = now + min(max(ttl * SECOND, SHORTEST), LONGEST)
            names = self._at(asker, address)
            self._size -= names.size
            self.gave_way += names.learn(links[0], links[1:], until)
            self._size += names.size
            learnt.append((address, names.known[links[0]]))
            while self._size > self._text:
                self._give_way()
        return learnt

    def find(self, asker: Asker, address: Address, now: int) -> tuple[Known, ...]:
        """The names of an address for this asker, the last learnt first; or those that all share, not ``own``."""
        for own, one in ((True, asker), (False, Asker(asker.namespace))):
            names = self._look(one, address, now)
            if names is not None:
                found = tuple(reversed(names.known.values()))
                return found if own else tuple(known._replace(own=False) for known in found)
        return ()

    def opened(self, asker: Asker, address: Address, now: int) -> None:
        """A connection to this address begins: its names are kept until `closed`."""
        names = self._look(asker, address, now)
        if names is not None:
            names.open += 1

    def closed(self, asker: Asker, address: Address, now: int) -> None:
        """And is over: the names are kept for a little longer."""
        names = self._table.get((asker, _packed(address)))
        if names is None or not names.open:
            return
        names.open -= 1
        if not names.open:
            for name, known in names.known.items():
                names.known[name] = known._replace(until=max(known.until, now + GRACE))

    def expire(self, now: int) -> int:
        """Forgets all that is over, and returns how many addresses. Nothing depends on when this is called."""
        before = len(self._table)
        for key, names in list(self._table.items()):
            self._expire(key, names, now)
        return before - len(self._table)

    def forget(self, asker: Asker) -> None:
        """Forgets what one asker has learnt, as when its namespace is gone."""
        for key in [key for key in self._table if key[0] == asker]:
            self._size -= self._table.pop(key).size

    def _at(self, asker: Asker, address: Address) -> _Names:
        key = asker, _packed(address)
        names = self._table.get(key)
        if names is None:
            if len(self._table) >= self._room:
                self._give_way()
            names = self._table[key] = _Names()
        self._table.move_to_end(key)
        return names

    def _look(self, asker: Asker, address: Address, now: int) -> _Names | None:
        key = asker, _packed(address)
        names = self._table.get(key)
        if names is None or not self._expire(key, names, now):
            return None
        self._table.move_to_end(key)
        return names

    def _expire(self, key: tuple[Asker, bytes], names: _Names, now: int) -> bool:
        """Forgets what is over of one address; whether something is left."""
        self._size -= names.expire(now)
        if not names.known:
            del self._table[key]
        return bool(names.known)

    def _give_way(self) -> None:
        _, names = self._table.popitem(last=False)
        self._size -= names.size
        self.gave_way += 1


def _size(known: Known) -> int:
    return sum(map(len, known.chain), len(known.name))


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
