"""Options that several commands share, and what they mean to the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tidewaiter.driver.packets import CAPACITY
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy

_F = TypeVar("_F", bound=Callable[..., Any])

VERDICTS = {
    "accept": Verdict.PERMANENT_ACCEPT,
    "block": Verdict.PERMANENT_BLOCK,
    "drop": Verdict.PERMANENT_DROP,
}


def _together(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


scope_options = _together(
    click.option("--cgroup", type=click.Path(path_type=Path), help="Only programs of this control group."),
    click.option(
        "--netns",
        type=click.Path(path_type=Path),
        help="Only this network namespace (a path, as /run/netns/NAME).",
    ),
    click.option(
        "--name", default="host", show_default=True, help="Tells several firewalls on one host apart."
    ),
)
"""``--cgroup``, ``--netns`` and ``--name``."""


def _number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which is in every range
        raise click.BadParameter("nan is no number of seconds.")
    return value


waiting_options = _together(
    click.option(
        "--fail",
        type=click.Choice(["open", "closed"]),
        default="closed",
        show_default=True,
        help="What becomes of new undecided connections when the firewall dies.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0.01, 3600),
        callback=_number,
        default=30.0,
        show_default=True,
        help="Seconds that a connection waits when the policy says to ask.",
    ),
    click.option(
        "--on-timeout",
        type=click.Choice(list(VERDICTS)),
        default="block",
        show_default=True,
        help="The answer when nobody has answered by then.",
    ),
    click.option(
        "--held",
        type=click.IntRange(1, 65536),
        default=CAPACITY,
        show_default=True,
        help="Packets that may wait at once; then the oldest is dropped.",
    ),
    click.option(
        "--count/--no-count",
        default=True,
        show_default=True,
        help="Whether payload bytes are counted.",
    ),
)
"""``--fail``, ``--timeout``, ``--on-timeout``, ``--held`` and ``--count``."""

firewall_options = _together(
    click.option(
        "--policy",
        "policy_file",
        metavar="FILE",
        help="The policy (TOML). Without one all is accepted.",
    ),
    waiting_options,
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
)
"""``--policy``, `waiting_options` and ``--json``."""


state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where lists are kept for the next start.  "
    "[default: /var/lib/tidewaiter/NAME; of an ordinary user: ~/.local/state/tidewaiter/NAME]",
)
"""``--state``, which `state_folder` completes."""


def state_folder(given: Path | None = None, name: str = "host") -> Path | None:
    """The folder for what is to outlast a firewall: as said, as systemd says (StateDirectory=), or the user's own.

    None for a user who has no home.
    """
    if given is not None:
        return given
    if said := os.environ.get("STATE_DIRECTORY"):
        return Path(said.partition(":")[0], name)
    if os.geteuid() == 0:
        return Path("/var/lib/tidewaiter", name)
    try:
        own = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    except RuntimeError:
        return None
    return Path(own, "tidewaiter", name)


def load_policy(path: str | None) -> Policy:
    """The policy of a file for a firewall that starts, or one that accepts everything. Raises PolicyError."""
    return Policy.load(Path(path)).at_start() if path else Policy()
