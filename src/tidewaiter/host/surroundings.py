"""The network that a namespace is in, now and whenever it changes: interfaces that are up, ways out, Wi-Fi.

The kernel tells of each change of links and routes. A burst is waited for, and if any of it says where we are,
everything is read anew: so what was told too fast (ENOBUFS) is not missed either. Of all other routes it only matters
that they have changed: packets may go another way now.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tidewaiter.host import namespace, rtnetlink, wifi
from tidewaiter.host.rtnetlink import Hop, Kind, MalformedMessage, Message
from tidewaiter.host.wake import Wake
from tidewaiter.model.key import Address

log = logging.getLogger("tidewaiter")

SETTLED = 0.1
"""Seconds without news after which what has changed is read."""

LONGEST = 1.0
"""Seconds after which it is read even if the news do not end."""

_NETLINK_ROUTE, _NETLINK_GENERIC = 0, 16
_READ = 1 << 17  # bytes; the kernel's messages are half as long at most
_ATTEMPTS = 4
_TIMEOUT = 10.0
_Request = Callable[[int], bytes]
_numbers = itertools.count(1)


class Surroundings(NamedTuple):
    """Where a namespace is. ``interfaces``: the names of those that are up, without the loopback, sorted. ``ways``:
    what leads (nearly) everywhere, as the interface's name and the gateway. ``wifi``: the network's name, "" for none.
    ``turns``: how many changes of any routes, or of the rules that choose among them, have been told of so far.
    """

    interfaces: tuple[str, ...] = ()
    ways: frozenset[tuple[str, Address | None]] = frozenset()
    wifi: str = ""
    turns: int = 0

    @property
    def gateways(self) -> tuple[Address, ...]:
        """The gateways."""
        return tuple(gateway for _, gateway in self.ways if gateway is not None)


class Watch:
    """Looks after a namespace from its making to `close`. ``now`` is how it is; ``tell`` hears, in a thread of its own,
    when that has changed.
    """

    def __init__(self, where: Path, tell: Callable[[], object]) -> None:
        """Reads it for the first time. Raises OSError."""
        self._tell = tell
        self._news, self._asking, self._generic = namespace.run_inside(where, _open)
        self._wake = Wake()
        self._stale, self._turns = False, 0
        try:
            self.now = self._read()
        except BaseException:
            self._close()
            raise
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tidewaiter-surroundings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks no more."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for one in (self._news, self._asking, self._generic, self._wake):
            one.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._news, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        since = 0.0  # when the first news came that have not been acted upon
        while not self._stopping:
            ready = poll.poll(SETTLED * 1000 if since else None)
            if self._stopping:
                break
            if ready:
                self._hear()
            now = time.monotonic()
            matters = self._stale or self._turns != self.now.turns
            since = since or (now if matters else 0.0)
            if since and (not ready or now - since > LONGEST):
                since = 0.0
                self._look()

    def _hear(self) -> None:
        """Reads what has been told: whether it may change where we are, and what turns packets elsewhere."""
        while True:
            try:
                for message in rtnetlink.messages(_receive(self._news)):
                    self._stale |= _concerns(message)
                    self._turns += _turns(message)
            except BlockingIOError:
                return
            except (OSError, MalformedMessage) as error:  # ENOBUFS: more than there was room for
                log.debug("news of the network were lost: %s", error)
                self._stale = True
                self._turns += 1
                if isinstance(error, OSError) and error.errno != errno.ENOBUFS:
                    return

    def _look(self) -> None:
        found = self.now
        if self._stale:
            self._stale = False
            try:
                found = self._read()
            except (OSError, MalformedMessage) as error:
                log.warning("the network cannot be read, and is taken for what it was: %s", error)
        found = found._replace(turns=self._turns)
        if found != self.now:
            self.now = found
            self._tell()

    def _read(self) -> Surroundings:
        links = [rtnetlink.link(body) for body in self._list(rtnetlink.list_of_links, Kind.NEW_LINK)]
        names = {link.number: link.name for link in links}
        hops: list[Hop] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            asking = partial(rtnetlink.list_of_routes, family)
            for body in self._list(asking, Kind.NEW_ROUTE, rtnetlink.is_way_out):
                if (way := rtnetlink.route(body)) is not None:
                    hops += way.hops
        return Surroundings(
            tuple(sorted(link.name for link in links if link.up)),
            frozenset((names.get(hop.interface, ""), hop.gateway) for hop in hops),
            self._wifi(),
        )

    def _wifi(self) -> str:
        """The first network's name. Without Wi-Fi in the kernel there is none."""
        try:
            (body,) = _ask(self._generic, wifi.find_family, wifi.CONTROL)
            number = wifi.family(body)
            bodies = list(_ask(self._generic, partial(wifi.list_of_interfaces, number), number))
            return next(filter(None, map(wifi.network, bodies)), "")
        except (OSError, ValueError) as error:  # ENOENT: there is none
            log.debug("the name of the Wi-Fi network is not known: %s", error)
            return ""

    def _list(
        self, asking: _Request, kind: int, wanted: Callable[[bytes], bool] = lambda _body: True
    ) -> list[bytes]:
        for _ in range(_ATTEMPTS):
            try:
                return [body for body in _ask(self._asking, asking, kind) if wanted(body)]
            except InterruptedError:  # it has changed meanwhile
                continue
        raise OSError(errno.EAGAIN, f"the network changed during each of {_ATTEMPTS} attempts to read it")


def _concerns(message: Message) -> bool:
    if message.kind in rtnetlink.ROUTES:
        return rtnetlink.is_way_out(message.body)
    return message.kind in rtnetlink.LINKS


def _turns(message: Message) -> bool:
    if message.kind in rtnetlink.ROUTES:
        return rtnetlink.leads_elsewhere(message.body)
    return message.kind in rtnetlink.RULES


def _ask(channel: socket.socket, asking: _Request, kind: int) -> Iterator[bytes]:
    """The bodies of what is answered. Raises OSError (InterruptedError: the list has changed), MalformedMessage."""
    number = next(_numbers)
    channel.sendto(asking(number), (0, 0))
    changed = False
    while True:
        for message in rtnetlink.messages(_receive(channel)):
            if message.sequence != number:  # of a question that was given up
                continue
            changed |= bool(message.flags & rtnetlink.INTERRUPTED)
            if message.kind == kind:
                yield message.body
            elif message.kind in {Kind.ERROR, Kind.DONE}:
                if refusal := rtnetlink.error(message.body):
                    raise OSError(refusal, os.strerror(refusal))
                if changed:
                    raise InterruptedError
                return


def _receive(channel: socket.socket) -> bytes:
    """One read of what the kernel says; any process may send to us."""
    while True:
        data, _, flags, sender = channel.recvmsg(_READ)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"a netlink message is longer than {_READ} bytes")
        if sender[0] == 0:
            return data


def _open() -> tuple[socket.socket, socket.socket, socket.socket]:
    """The sockets for news, for questions about links and routes, and for those about Wi-Fi."""
    made = []
    for protocol, groups in ((_NETLINK_ROUTE, rtnetlink.GROUPS), (_NETLINK_ROUTE, 0), (_NETLINK_GENERIC, 0)):
        one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        made.append(one)
        one.bind((0, groups))
        one.settimeout(0 if groups else _TIMEOUT)
    news, asking, generic = made
    return news, asking, generic
