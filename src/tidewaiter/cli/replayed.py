"""A newcomer without privileges sees the main job all the same: a small capture, replayed, and said to be one."""

from __future__ import annotations

from pathlib import Path

from tidewaiter.cli.errors import Failure
from tidewaiter.cli.output import Output
from tidewaiter.driver.core import Asked, Decided
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Answer
from tidewaiter.replay.capture import Capture, CaptureError
from tidewaiter.replay.player import Said, play
from tidewaiter.replay.programs import programs_file, read_programs
from tidewaiter.service.report import Clock, Reporter
from tidewaiter.service.world import read_world

EXAMPLE = Path(__file__).parents[3] / "examples" / "capture.pcap"


def replay_example(missing: str, policy: Policy, output: Output, state: Path | None = None) -> None:
    """Replays the shipped capture through the same driver and policy that live traffic goes through.

    ``state`` is where lists of servers are kept. Raises Failure if the capture is not there (an installed package ships
    none) or damaged.
    """
    if not EXAMPLE.exists():
        raise Failure(missing)
    reporter = Reporter(clock=Clock(offset=0))
    output.put(reporter.notice(missing))
    output.put(reporter.notice(f"This is a replay of {EXAMPLE.name}, not your traffic:"))
    asked = set()
    world = read_world(policy, state, lambda text: output.put(reporter.notice(text)))
    try:
        with EXAMPLE.open("rb") as file:
            programs = read_programs(programs_file(EXAMPLE))
            for event in play(Capture(file), policy, programs=programs, world=world):
                if isinstance(event, Said):
                    if event.decision.answer is Answer.ASK:
                        asked.add(event.connection.id)
                    continue
                if isinstance(event, Asked):
                    continue  # answered at once: nothing is held in a replay
                if isinstance(event, Decided):
                    event = event._replace(first=True)  # noqa: PLW2901 - of it nobody has heard yet
                for line in reporter.lines(event):
                    if line["id"] in asked:
                        line["verdict"] = "ask"
                    output.put(line)
    except CaptureError as error:
        raise Failure(f"{EXAMPLE}: {error}") from error
    output.put(reporter.notice("End of the replay."))
    output.flush()
