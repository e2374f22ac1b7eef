"""Writes the pages of docs/reference that are made from the code: commands, layers, states and privileges.

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
from tidewaiter.host import privileges

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
_MADE = "<!-- made by scripts/make_reference.py -->\n\n"
_WIDTH = 100
_PRIVILEGES = """
It is user root still, and may write root's own files (as a service it may not: `ProtectSystem=strict`), but
no longer those of others; it cannot load kernel modules, mount, or become another user. What follows for you:

- The policy file may be anybody's: it is read, by `CAP_DAC_READ_SEARCH`. A device in a folder that belongs to
  another user than root stays behind as a dead socket file, which the next driver replaces.
- `iptables-legacy` loads its kernel modules only as full root: name them in `/etc/modules-load.d` where it is
  the only way.
- A program of somebody else's that is in the way is named by its number (`bpftool prog show id NUMBER`), unless
  `CAP_SYS_ADMIN` is kept.
- `tidewaiter lab`, `doctor` and `cleanup` give nothing away: they make namespaces, or end at once.

**The owner in another process** (`tidewaiter run --driver PATH`, or [your own](../howto/own-the-driver.md))
needs no capability; the driver's `--access` says who may be it. The wire tells it a process id, and it reads
the rest from `/proc` where it may: user, arguments and control group of every process, the executable only of
its own user's. Where it may not, the program is unknown (`"program": ""`), and rules that name programs do
not match: `run` says so when it starts. Rules of the driver's own `--policy` know every program.

As systemd services: [Run as a service](../howto/run-as-a-service.md).
"""


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
        "| layer | IP | hook | file | what it does | may decide |\n|---|---|---|---|---|---|\n"
    )
    for layer in LAYERS:
        hooks = "<br>".join(f"`{hook}`" for hook in layer.hooks)
        families = ", ".join(f"v{family}" for family in layer.families)
        cells = (layer.name, families, hooks, f"`{layer.source}.bpf.c`", layer.purpose, layer.decides)
        text += f"| {' | '.join(cells)} |\n"
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


def privileges_page() -> str:
    """host/privileges.py as a table."""
    text = (
        "# Privileges\n\n"
        "`tidewaiter run` and `tidewaiter driver` start as root and keep these capabilities (capabilities(7)).\n"
        "Before the first hook is in the kernel, all others are given away for good: they leave the bounding set\n"
        "too, and *no_new_privs* keeps every program that is started from then on (iptables) from gaining any.\n"
        "`tidewaiter doctor` says which of them are there.\n\n"
        "| capability | what it is for | without it |\n|---|---|---|\n"
    )
    for name in privileges.NEEDED | privileges.USEFUL:
        without = "does not start" if name in privileges.NEEDED else "knows less"
        if name == privileges.ENTERING:
            without = "guards its own network namespace only; it is kept only with `--netns`"
        text += f"| `{name}` | {privileges.PURPOSES[name]} | {without} |\n"
    return text + _PRIVILEGES


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "layers.md": layers_page,
    "states.md": states_page,
    "privileges.md": privileges_page,
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
