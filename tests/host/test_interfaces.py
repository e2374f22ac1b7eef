"""host/interfaces.py: what interfaces are called, in whichever namespace."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tidewaiter.host.interfaces import Interfaces
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

OWN = Path("/proc/self/ns/net")


def test_they_have_the_names_that_the_system_says() -> None:
    found = Interfaces([OWN])
    index = socket.if_nametoindex("lo")
    assert found.name(0, index) == ""  # nobody wants it
    found.wanted = True
    assert found.name(0, index) == "lo"
    assert found.name(0, 0) == ""
    assert found.name(0, 2**31 - 1) == ""
    found.close()


def test_a_namespace_that_is_gone_has_none(tmp_path: Path) -> None:
    found = Interfaces([tmp_path / "gone"])
    found.wanted = True
    assert found.name(0, 1) == ""


@pytest.mark.live
def test_each_namespace_has_its_own(world: World) -> None:
    found = Interfaces([OWN, world.client_namespace])
    found.wanted = True
    index = world.in_client(lambda: socket.if_nametoindex(plan.LINK))
    assert found.name(1, index) == plan.LINK
    assert (found.name(0, 1), found.name(1, 1)) == ("lo", "lo")
    found.close()
