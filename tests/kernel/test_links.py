"""kernel/links.py: a link that others detach or unpin is noticed, and made anew."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from livelab import PROGRAM_OF_OTHERS, attach_foreign, loaded
from tidewaiter.kernel.attached import ATTACH_TYPES
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.links import Links, standing
from tidewaiter.kernel.loader import Kernel
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live


@pytest.fixture
def kernel(world: World) -> Iterator[Kernel]:
    """Attached to the world's control group."""
    with loaded() as kernel:
        kernel.attach(world.cgroup)
        yield kernel


@pytest.fixture
def links(kernel: Kernel, world: World) -> Iterator[Links]:
    links = Links(kernel.pins, world.cgroup)
    yield links
    links.close()


def detach_by_others(pin: Path) -> None:
    """What an administrator may do to a link that is not his."""
    subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)


def attached_to(group: Path) -> list[str]:
    shown = subprocess.run(
        ["bpftool", "-j", "cgroup", "show", group], capture_output=True, text=True, check=True
    )
    return sorted(program["name"] for program in json.loads(shown.stdout or "[]") if "tw_" in program["name"])


def test_what_stands_is_not_lost(kernel: Kernel, links: Links) -> None:
    assert links.lost() == []
    assert standing(kernel.pins)
    assert {path.name for path in (kernel.pins / "links").iterdir()} == set(ATTACH_TYPES)


@pytest.mark.parametrize("name", ["tw_egress", "tw_connect4", "tw_socket_operation"])
def test_what_was_detached_is_attached_again(kernel: Kernel, links: Links, world: World, name: str) -> None:
    before = attached_to(world.cgroup)
    assert len(before) == len(ATTACH_TYPES)
    detach_by_others(kernel.pins / "links" / name)
    assert links.lost() == [name]
    assert not links.attached(name)
    assert not standing(kernel.pins)
    links.repair(name)
    assert links.lost() == []
    assert attached_to(world.cgroup) == before
    assert standing(kernel.pins)


def test_what_lost_its_pin_stays_attached_and_is_pinned_again(
    kernel: Kernel, links: Links, world: World
) -> None:
    before = attached_to(world.cgroup)
    for path in (kernel.pins / "links").iterdir():
        path.unlink()
    (kernel.pins / "links").rmdir()
    assert attached_to(world.cgroup) == before
    assert links.lost() == sorted(ATTACH_TYPES)
    assert not standing(kernel.pins)
    for name in links.lost():
        assert links.attached(name)
        links.repair(name)
    assert links.lost() == []
    assert standing(kernel.pins)


def test_who_is_in_the_way_is_named(kernel: Kernel, links: Links, world: World, tmp_path: Path) -> None:
    """Somebody detaches our program and attaches one that lets no other in."""
    detach_by_others(kernel.pins / "links" / "tw_connect4")
    with attach_foreign(world.cgroup, tmp_path), pytest.raises(KernelError) as caught:
        links.repair("tw_connect4")
    assert caught.value.errno == errno.EPERM
    assert f"in the way is {PROGRAM_OF_OTHERS}" in str(caught.value)
    links.repair("tw_connect4")
    assert links.lost() == []


def test_a_link_that_is_missing_does_not_stand(kernel: Kernel) -> None:
    assert standing(kernel.pins)
    (kernel.pins / "links" / "tw_connect4").unlink()
    assert not standing(kernel.pins)
    assert not standing(kernel.pins / "nowhere")
