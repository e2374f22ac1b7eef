"""Writes the pages of docs/reference that are made from the code: commands.md and layers.md.

    .venv/bin/python scripts/make_reference.py

tests/test_docs.py fails when they are not what this would write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from tidewaiter.cli import main as command_line
from tidewaiter.driver.layers import LAYERS

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
_MADE = "<!-- made by scripts/make_reference.py -->\n\n"
_WIDTH = 100


def commands_page() -> str:
    """Each command's own help, in the order in which ``tidewaiter --help`` lists them."""
    text = (
        "# Commands\n\n"
        "What each command says with `--help`. Events and counters are described in [events.md](events.md) and\n"
        "[statistics.md](statistics.md), the policy file in [policy.md](policy.md).\n\n"
        "| exit status | means |\n|---|---|\n"
        "| 0 | done |\n"
        "| 1 | not possible on this machine; `policy check` and `wire`: the input is wrong |\n"
        "| 2 | the command line, or the policy to enforce, is wrong |\n\n"
        "`lab` ends with the status of its command. Every error is one sentence on standard error,\n"
        "behind the usage where a word was off.\n"
    )
    for context in _walk("tidewaiter", command_line, None):
        text += f"\n## {context.command_path}\n\n```text\n{context.command.get_help(context)}\n```\n"
    return text


def layers_page() -> str:
    """driver/layers.py as a table."""
    text = (
        "# Layers\n\n"
        "Where Tidewaiter looks in the kernel. The names are those of the Windows filtering platform, by which\n"
        "users of the Portmaster kernel extension know them; each is one file of `src/tidewaiter/kernel/`.\n\n"
        "| layer | hook | file | what it does | decides |\n|---|---|---|---|---|\n"
    )
    for layer in LAYERS:
        hooks = "<br>".join(f"`{hook}`" for hook in layer.hooks)
        decides = "yes" if layer.decides else ""
        text += f"| {layer.name} | {hooks} | `{layer.source}.bpf.c` | {layer.purpose} | {decides} |\n"
    return text


PAGES: Mapping[str, Callable[[], str]] = {"commands.md": commands_page, "layers.md": layers_page}


def made(page: str) -> str:
    """The text of a page as it should be."""
    return _MADE + PAGES[page]()


def _walk(name: str, command: click.Command, parent: click.Context | None) -> Iterator[click.Context]:
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from _walk(below, found, context)


if __name__ == "__main__":
    for page in PAGES:
        (REFERENCE / page).write_text(made(page))
