"""What every command has in common."""

from __future__ import annotations

from typing import Any

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""Context settings: -h is --help, whether a command is called below another or alone."""
