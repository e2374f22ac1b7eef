"""The commands: `tidewaiter run`, `driver`, `lab`, `connections`, `doctor`, `cleanup`, `policy`, `wire`.

Each module is one command: its options, and little else; the work is done by the parts below. `output` prints for
people and for programs, `errors` turns what a part raises into one sentence and an exit status.
"""

from tidewaiter.cli.main import main

__all__ = ["main"]
