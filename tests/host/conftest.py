"""A lab for the live tests of each module here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from livelab import Agent, agent_in, loaded
from tidewaiter.kernel.loader import Kernel
from tidewaiter.lab.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    with agent_in(world) as agent:
        yield agent


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """The kernel half, attached nowhere."""
    with loaded() as kernel:
        yield kernel
