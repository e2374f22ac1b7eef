"""For whom what a resolver answers counts."""

from __future__ import annotations

from ipaddress import ip_address

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.process import Process
from tidewaiter.names.askers import GUESTS, askers
from tidewaiter.names.table import Asker

ENDS = ip_address("10.0.0.1"), 4000, ip_address("192.0.2.1"), 53


def of(path: str, direction: Direction = Direction.OUT, namespace: int = 7, cgroup: str = "") -> Connection:
    """A connection of a program."""
    return Connection(1, ConnectionKey(17, *ENDS, namespace), direction, Process(9, path, cgroup=cgroup))


def test_a_program_asks_for_itself_and_a_resolver_for_all() -> None:
    assert askers(of("/usr/bin/curl", cgroup="/a")) == (Asker(7, "/usr/bin/curl"),)
    assert askers(of("")) == (Asker(7),)
    assert askers(of("/lib/systemd/systemd-resolved")) == (Asker(7),)


def test_what_is_forwarded_is_of_its_program_or_else_of_its_host() -> None:
    assert askers(of("", Direction.FORWARD)) == (Asker(7, "10.0.0.1"),)
    guest, host = askers(of("/usr/bin/curl", Direction.FORWARD, cgroup="/docker-1"))
    assert host == Asker(7, "10.0.0.1")
    assert (guest,) == askers(of("/usr/bin/curl", namespace=GUESTS, cgroup="/docker-1"))
    assert (guest,) != askers(of("/usr/bin/curl", namespace=GUESTS, cgroup="/docker-2"))
