"""What a connection is called in the end: by what DNS has taught, and what its first bytes said."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.model.name import NO_NAME, By, Hidden, Name
from tidewaiter.names.resolvers import encrypted_dns, may_hide
from tidewaiter.names.table import Known


def name_of(connection: Connection, known: tuple[Known, ...], said: Name | None) -> Name:
    """What `called` says of a connection, and whether it is DNS in secret."""
    name = called(known, said) if said is not None else _by_dns_alone(known)
    if name.hidden is not None or connection.direction is Direction.IN:
        return name
    port = connection.remote_port
    if name is NO_NAME and not may_hide(port):
        return name
    hidden = encrypted_dns(port, connection.key.remote if may_hide(port) else None, name)
    return name if hidden is None else name._replace(hidden=hidden)


@lru_cache(maxsize=4096)
def _by_dns_alone(known: tuple[Known, ...]) -> Name:
    return _by_dns(known, NO_NAME)


def called(known: Sequence[Known], said: Name | None) -> Name:
    """The name of a connection.

    ``known`` are the names of its address for its program, the likeliest first; ``said`` is what its first bytes
    say, None while they have not come. What the program says itself counts for more, since one address may have many
    names. Only where an encrypted ClientHello comes with a name that the program has not asked DNS for is it
    taken for that of a front: then DNS knows better, and the name of the front is among the others.
    """
    said = said or NO_NAME
    if not said.name:
        return _by_dns(known, said)
    for one in known:
        links = (one.name, *one.chain)
        if said.name in links:
            chain = tuple(link for link in links if link != said.name)
            hidden = None if said.hidden is Hidden.ECH else said.hidden
            return said._replace(chain=chain, hidden=hidden, why=said.why if hidden else "")
    if said.hidden is Hidden.ECH and known:
        behind = _by_dns(known, said)
        return behind._replace(others=(*behind.others, said.name))
    return said


def _by_dns(known: Sequence[Known], said: Name) -> Name:
    if not known:
        return said
    first, *rest = known
    others = tuple(one.name for one in rest)
    return said._replace(name=first.name, by=By.DNS, chain=first.chain, others=others)
