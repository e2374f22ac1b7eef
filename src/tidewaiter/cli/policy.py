"""``tidewaiter policy``: look after policy files. `policy_edit` changes them, `policy_import` takes others over."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from tidewaiter.cli.help import HELP
from tidewaiter.cli.options import state_folder
from tidewaiter.cli.policy_edit import add, diff, disable, enable, history, move, remove, undo
from tidewaiter.cli.policy_import import export, import_group
from tidewaiter.cli.printable import printable
from tidewaiter.lists import Union
from tidewaiter.model.key import Direction
from tidewaiter.policy import Policy, PolicyError, compile_tables
from tidewaiter.policy.connection import facts_of, is_decided, read_object
from tidewaiter.policy.explain import Explainer, Explanation
from tidewaiter.policy.measure import measure
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.schema import schema
from tidewaiter.policy.tables import KERNEL_CAPACITY
from tidewaiter.policy.trial import TrialError, load_trials, try_out
from tidewaiter.service.absent import absent
from tidewaiter.service.world import read_world

_SHOWN = 20


@click.group(context_settings=HELP)
def policy() -> None:
    """Check, explain, test, change and import policy files."""


for _command in (import_group, export, add, remove, move, enable, disable, history, undo, diff):
    policy.add_command(_command)


def loaded(file: str) -> Policy:
    """The policy of a file; an error is one line on standard error, and status 1."""
    try:
        return Policy.load(file)
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def say(text: str) -> None:
    """A sentence on standard error."""
    click.echo(printable(text), err=True)


@policy.command(context_settings=HELP)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
def check(file: str, as_json: bool) -> None:
    """Read FILE and say in one line what it holds, or where it is wrong (exit status 1).

    A list's file, a geography file or a Python function that is not there is a warning on standard error.

    \b
    Example:
      tidewaiter policy check policy.toml
    """
    found = loaded(file)
    for sentence in absent(found):
        say(f"warning: {sentence}")
    tables = compile_tables(found, KERNEL_CAPACITY)
    rules = len(found.rules)
    in_kernel = tables.in_kernel
    defaults = {direction.word: found.default(direction).value for direction in Direction}
    if as_json:
        summary = {"file": file, "rules": rules, "kernel": in_kernel, "consult": rules - in_kernel}
        click.echo(json.dumps({**summary, "default": defaults}))
        return
    words = ", ".join(f"{direction} {answer}" for direction, answer in defaults.items())
    click.echo(
        f"{file}: {rules} rule{'' if rules == 1 else 's'} ({in_kernel} decided in the kernel, "
        f"{rules - in_kernel} in Python); default {words}"
    )


@policy.command(context_settings=HELP)
@click.option("--policy", "file", metavar="FILE", required=True, help="The policy (TOML).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.argument("connections", metavar="CONNECTION...", nargs=-1, required=True)
def explain(file: str, as_json: bool, connections: tuple[str, ...]) -> None:
    """Say what the policy does with each CONNECTION, and why.

    A CONNECTION is a JSON object as --json prints it everywhere; - reads one a line from standard input. Events that no
    policy decides (notices, counters, packet sockets) are passed over.

    \b
    Example:
      tidewaiter policy explain --policy policy.toml '{"program": "/usr/bin/curl", "remote": "192.0.2.1:443"}'
    """
    found = loaded(file)
    explainer, failed = Explainer(found, read_world(found, state_folder(), say)), False
    for text in _each(connections):
        try:
            value = read_object(text)
            if not is_decided(value):
                continue
            explanation = explainer.explain(facts_of(value))
        except BadValueError as bad:
            failed = True
            say(str(bad))
            if as_json:
                click.echo(json.dumps({"error": str(bad)}))
            continue
        not_carried = explainer.not_carried(value)
        if as_json:
            click.echo(json.dumps(explanation.as_object() | {"not_carried": not_carried}))
        else:
            click.echo("\n".join(map(printable, _lines(explanation, not_carried))))
    sys.exit(failed)


def _each(connections: Iterable[str]) -> Iterator[str]:
    for one in connections:
        if one != "-":
            yield one
        else:
            yield from (line for line in sys.stdin if line.strip())


def _lines(explanation: Explanation, not_carried: list[str]) -> Iterator[str]:
    rule = explanation.rule
    by = f"rule {rule.name!r}, {rule.file}:{rule.line}" if rule else f"the default for {explanation.default}"
    yield f"{explanation.verdict}: {by} ({explanation.tier})"
    if explanation.missing:
        yield f"  cannot be decided before this is known: {', '.join(explanation.missing)}"
    if not_carried:
        yield f"  rules name what the event does not carry: {', '.join(not_carried)}; add it where it matters"
    for passed in explanation.above[:_SHOWN]:
        yield f"  not {passed.rule.name!r} (line {passed.rule.line}): {'; '.join(map(str, passed.unmet))}"
    if len(explanation.above) > _SHOWN:
        yield f"  and {len(explanation.above) - _SHOWN} more rules above it did not match"
    for other, unmet in explanation.changes():
        wanted = f"not {unmet.wanted}" if unmet.negated else f"{unmet.wanted}"
        yield f"  it would be {other.answer.value} by {other.name!r} if {unmet.dimension} were {wanted}"


@policy.command(context_settings=HELP)
@click.argument("file")
@click.option("--policy", "policy_file", metavar="FILE", help="Another policy than the one that FILE names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each case.")
def test(file: str, policy_file: str | None, as_json: bool) -> None:
    """Try the cases of FILE (connection, expected verdict and rule); exit status 1 if one comes out otherwise.

    \b
    Example:
      tidewaiter policy test cases.toml
    """
    try:
        trials = load_trials(file)
    except TrialError as error:
        say(str(error))
        sys.exit(2)
    found = loaded(policy_file or str(Path(file).parent / trials.policy))
    results = try_out(found, read_world(found, state_folder(), say), trials)
    for result in results:
        if as_json:
            click.echo(json.dumps(result.as_object()))
        elif not result.passed:
            click.echo(printable(f"{file}:{result.line}: {result}"))
    wrong = sum(not result.passed for result in results)
    if not as_json:
        click.echo(f"{len(results) - wrong} of {len(results)} cases came out as expected")
    sys.exit(wrong > 0)


@policy.command("compile", context_settings=HELP)
@click.argument("file")
@click.option("--stats", is_flag=True, help="Say what each dimension costs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def compile_(file: str, stats: bool, as_json: bool) -> None:
    """Compile FILE for the kernel and for Python, and say what came of it.

    \b
    Example:
      tidewaiter policy compile --stats policy.toml
    """
    one = loaded(file)
    found = measure(one)
    lists = read_world(one, state_folder(), say).lists if stats or as_json else {}
    sizes = {name: members.sizes for name, members in lists.items() if isinstance(members, Union)}
    if as_json:
        listed = {name: {"names": names, "ranges": ranges} for name, (names, ranges) in sizes.items()}
        click.echo(json.dumps({**found.as_object(), "lists": listed}))
        return
    click.echo("\n".join(found.lines(details=stats)))
    for name, (names, ranges) in sizes.items():
        click.echo(printable(f"  list {name:<9} {names:>9,} names {ranges:>9,} ranges of addresses"))


@policy.command("schema", context_settings=HELP)
def schema_() -> None:
    """Print the JSON schema of policy files, for editors.

    \b
    Example:
      tidewaiter policy schema > policy.schema.json
    """
    click.echo(json.dumps(schema(), indent=2))
