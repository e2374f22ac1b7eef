"""Runs commands one after another in the lab, and writes down who each was: ``errands.py RECORD``.

Standard input is a JSON list of commands: ``name``, ``argv`` (with $VARIABLES of the environment), ``stdin``. The
record is a JSON object by name: ``pid``, ``argv``, ``status`` and ``output``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Carries out all of them."""
    record = {}
    for errand in json.load(sys.stdin):
        argv = [os.path.expandvars(word) for word in errand["argv"]]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        output, _ = process.communicate(errand.get("stdin", ""), timeout=20)
        record[errand["name"]] = {
            "pid": process.pid,
            "argv": argv,
            "status": process.returncode,
            "output": output,
        }
    Path(sys.argv[1]).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
