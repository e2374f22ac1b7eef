"""Makes docs/pictures/lab.svg: a real run of the lab, as a terminal shows it.

    sudo .venv/bin/python scripts/make_picture.py

Run it again when what the commands print has changed.
"""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
COLUMNS = 92
PROGRAMS = (
    "wget -qO- $LAB_HTTP",
    "curl -so /dev/null $LAB_HTTP/bytes/5000000",
    "curl -so /dev/null $LAB_TLS6",
    "dig +short @10.77.0.13 tls.lab >/dev/null",
    "nc -z 10.77.0.10 25",
)
ARGUMENTS = ("lab", "--policy", "policy.toml", "--timeout", "2", "--")


def record(command: list[str]) -> str:
    """What a command writes to a terminal, with its colours."""
    written = bytearray()

    def keep(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        written.extend(data)
        return data

    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    pty.spawn(command, keep)
    return written.decode().replace("\r\n", "\n")


def main() -> None:
    """Runs the lab and writes the picture."""
    os.chdir(FOLDER)
    output = record([sys.executable, "-m", "tidewaiter", *ARGUMENTS, "sh", "-c", "; ".join(PROGRAMS)])
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        prompt = ("$ ", "bold green")
        console.print(Text.assemble(prompt, "cat policy.toml"))
        console.print(
            Syntax(
                Path("policy.toml").read_text().rstrip(),
                "toml",
                theme="ansi_dark",
                background_color="default",
            )
        )
        programs = ";\n      ".join(PROGRAMS)
        console.print(
            Text.assemble("\n", prompt, f"tidewaiter {' '.join(ARGUMENTS)} sh -c '\n      {programs}'")
        )
        console.print(Text.from_ansi(output.rstrip()))
        picture = console.export_svg(title="tidewaiter", unique_id="tidewaiter")
    # no font from elsewhere: whoever looks at the picture fetches nothing
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    picture = picture.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    Path("lab.svg").write_text(re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE))


if __name__ == "__main__":
    main()
