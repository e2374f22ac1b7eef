"""Writes the pages of docs/reference that are made from the code: commands.md, layers.md and states.md.

    .venv/bin/python scripts/make_reference.py

tests/test_docs.py fails when they are not what this would write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from tidewaiter.cli import main as command_line
from tidewaiter.driver.layers import LAYERS
from tidewaiter.driver.states import CHANGES, Happening, State, Step

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


def states_page() -> str:
    """driver/states.py as a picture and as tables."""
    text = (
        "# The states of a connection\n\n"
        "What the driver does with one connection, whatever happens to it. For each event it looks for the steps in\n"
        "this table, `driver/states.py`, and a test tries every pair on it. What is not in the table changes nothing;\n"
        "a verdict for an id under which no packet waits is counted as `unknown_ids`.\n\n"
        "```mermaid\nstateDiagram-v2\n    [*] --> unknown\n"
    )
    ways: dict[tuple[State, State], list[str]] = {}
    for state, changes in CHANGES.items():
        for happening, to in changes.items():
            if to.state is not state:
                ways.setdefault((state, to.state), []).append(_label(happening))
    for (here, there), labels in ways.items():
        text += f"    {_label(here)} --> {_label(there)}: {'<br>'.join(labels)}\n"
    text += "```\n\nWays back to the same state are left out of the picture.\n\n"
    text += _words("state", State) + _words("what happens", Happening) + _words("step", Step)
    text += (
        "Steps are done in this order. What becomes of a packet is in [the wire](wire.md#verdicts). A time-out is a\n"
        "verdict (`--on-timeout`), the rundown is one too (by `--fail`), and ClearCache is a new policy: the next\n"
        "packet of every connection is a *newer question*.\n"
    )
    for state, changes in CHANGES.items():
        text += f"\n## {_label(state).capitalize()}\n\n| what happens | steps | then |\n|---|---|---|\n"
        for happening, to in changes.items():
            steps = ", ".join(_label(step) for step in to.steps)
            text += f"| {_label(happening)} | {steps} | {_label(to.state)} |\n"
    return text


def _words(heading: str, words: type[State | Happening | Step]) -> str:
    rows = "".join(f"| {_label(word)} | {word.value} |\n" for word in words)
    return f"| {heading} | |\n|---|---|\n{rows}\n"


def _label(word: State | Happening | Step) -> str:
    return word.name.lower().replace("_", " ")


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "layers.md": layers_page,
    "states.md": states_page,
}


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
