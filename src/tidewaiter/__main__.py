"""``python -m tidewaiter``: the same as the command ``tidewaiter``."""

from tidewaiter.cli import main

main()
