"""A lab for each acceptance test, a program in it, and a name for its firewall."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from livelab import Agent, Capture, agent_in, capture_at, new_name
from tidewaiter.lab.world import World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    with agent_in(world) as agent:
        yield agent


@pytest.fixture
def capture(world: World) -> Iterator[Capture]:
    with capture_at(world) as capture:
        yield capture


@pytest.fixture
def name(world: World) -> str:
    return new_name(world)
