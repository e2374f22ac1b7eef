"""``tidewaiter policy add``, ``remove``, ``move``, ``enable``, ``disable``, and the versions that come of it."""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import tomli

from tidewaiter.cli.help import HELP
from tidewaiter.cli.printable import printable
from tidewaiter.policy import Policy, PolicyError
from tidewaiter.policy.edit import (
    EditError,
    Place,
    add_rule,
    enable_group,
    enable_rule,
    has_group,
    move_rule,
    remove_rule,
)
from tidewaiter.policy.versions import History, HistoryError, Version, read_text
from tidewaiter.policy.words import quoted

_why = click.option("--why", default="", metavar="TEXT", help="Why, for the history.")
_file = click.argument("file")
_name = click.argument("name")


def _placed(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--first", is_flag=True, help="Before all others."),
        click.option("--before", metavar="NAME", help="Right before this rule."),
        click.option("--after", metavar="NAME", help="Right behind this rule."),
    ):
        function = option(function)
    return function


def _place(first: bool, before: str | None, after: str | None) -> Place:
    if first + (before is not None) + (after is not None) > 1:
        raise click.UsageError("--first, --before and --after exclude each other.")
    if before is not None:
        return Place("before", before)
    if after is not None:
        return Place("after", after)
    return Place("first" if first else "last")


def _who() -> str:
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _fail(text: str) -> None:
    click.echo(printable(text), err=True)
    sys.exit(1)


def _load(file: str) -> Policy:
    try:
        return Policy.load(file)
    except PolicyError as error:
        _fail(str(error))
        raise AssertionError from None


def _home(file: str, name: str) -> str:
    """The file that a rule stands in: an included one, perhaps."""
    return next((rule.file for rule in _load(file).rules if rule.name == name), file)


def _group_home(file: str, name: str) -> str:
    """The file that a group is switched in: the last one that has a table for it, as that one holds."""
    policy = _load(file)
    groups = sorted({rule.group for rule in policy.rules if rule.group} | policy.groups.keys())
    if name not in groups:
        near = get_close_matches(name, groups, 1)
        remedy = f"did you mean {near[0]}?" if near else 'give a rule group = "NAME" first'
        _fail(f"{file}: no rule has the group {quoted(name)}; {remedy}")
    try:
        return next((one for one in reversed(policy.files) if has_group(read_text(Path(one)), name)), file)
    except (EditError, OSError, UnicodeDecodeError) as error:
        _fail(f"{file}: {error}")
        raise AssertionError from None


def _change(file: str, home: str, change: Callable[[str], str], why: str) -> None:
    """Changes one file of a policy. What would make it no policy any more is not written."""
    path = Path(home)
    try:
        after = change(read_text(path))
        History(path)  # what is wrong with it is said before anything is written
        Policy.load(file, instead={home: after})  # an included file may use what another one says
        version = History(path).change(after, time.time(), _who(), why)
        click.echo(f"{home}: version {version.number}")
    except PolicyError as error:
        _fail(str(error))
    except (EditError, HistoryError) as error:
        _fail(f"{home}: {error}")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{home} cannot be changed ({getattr(error, 'strerror', None) or error})")


@click.command(context_settings=HELP)
@_file
@click.argument("words", metavar="KEY=VALUE...", nargs=-1, required=True)
@_placed
@click.option("--comment", default="", metavar="TEXT", help="A line above the rule.")
@_why
def add(
    file: str,
    words: tuple[str, ...],
    first: bool,
    before: str | None,
    after: str | None,
    comment: str,
    why: str,
) -> None:
    """Add a rule to FILE: a KEY of a rule each, and its VALUE as in the file, or a text without quotes.

    \b
    Examples:
      tidewaiter policy add policy.toml name="no telemetry" host=.example.com verdict=block
      tidewaiter policy add policy.toml 'port=[443, 8443]' not.remote=lan verdict=ask --first
    """
    table: dict[str, Any] = {}
    for one in words:
        key, sign, value = one.partition("=")
        if not sign or not key:
            raise click.UsageError(f"{one!r} is not KEY=VALUE.")
        into = table
        *outer, last = key.strip().split(".")
        for part in outer:
            into = into.setdefault(part, {})
        into[last] = _value(value)
    _change(
        file,
        file,
        lambda text: add_rule(text, table, _place(first, before, after), comment),
        why or "a rule added",
    )


def _value(text: str) -> object:
    try:
        return tomli.loads(f"x = {text}")["x"]
    except (tomli.TOMLDecodeError, RecursionError, ValueError):
        return text


@click.command(context_settings=HELP)
@_file
@_name
@_why
def remove(file: str, name: str, why: str) -> None:
    """Take the rule NAME out of FILE, with the comment above it.

    \b
    Example:
      tidewaiter policy remove policy.toml "no telemetry" --why "it is gone"
    """
    _change(file, _home(file, name), lambda text: remove_rule(text, name), why or f"rule {name!r} removed")


@click.command(context_settings=HELP)
@_file
@_name
@_placed
@_why
def move(file: str, name: str, first: bool, before: str | None, after: str | None, why: str) -> None:
    """Move the rule NAME to another place, behind all others if none is named.

    \b
    Example:
      tidewaiter policy move policy.toml "no telemetry" --first
    """
    place = _place(first, before, after)
    _change(file, _home(file, name), lambda text: move_rule(text, name, place), why or f"rule {name!r} moved")


def _switch(on: bool) -> Callable[[str, str, bool, str], None]:
    word = "on" if on else "off"

    def switch(file: str, name: str, group: bool, why: str) -> None:
        if group:
            _change(
                file,
                _group_home(file, name),
                lambda text: enable_group(text, name, on=on),
                why or f"group {name!r} switched {word}",
            )
        else:
            home = _home(file, name)
            _change(
                file,
                home,
                lambda text: enable_rule(text, name, on=on),
                why or f"rule {name!r} switched {word}",
            )

    command = "enable" if on else "disable"
    switch.__doc__ = f"""Switch the rule NAME of FILE {word}, or the group NAME with --group.

    \b
    Example:
      tidewaiter policy {command} --group policy.toml work
    """
    return switch


def _switching(name: str, on: bool) -> click.Command:
    function: Any = _switch(on)
    for decorate in (
        _why,
        click.option("--group", is_flag=True, help="NAME is a group of rules."),
        _name,
        _file,
    ):
        function = decorate(function)
    return click.command(name, context_settings=HELP)(function)


enable = _switching("enable", on=True)
disable = _switching("disable", on=False)


def _history(file: str) -> History:
    """The versions of a file, the one that it holds now among them."""
    return _found(file, notice=True)


def _found(file: str, *, notice: bool = False) -> History:
    try:
        history = History(Path(file))
        if notice:
            history.notice(time.time())
    except HistoryError as error:
        _fail(str(error))
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: links that lead in a circle
        _fail(f"{file} has no history ({getattr(error, 'strerror', None) or error})")
    return history


@click.command(context_settings=HELP)
@_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def history(file: str, as_json: bool) -> None:
    """Show the versions of FILE: when, who and why.

    \b
    Example:
      tidewaiter policy history policy.toml
    """
    for version in _history(file).versions:
        if as_json:
            fields = {"version": version.number, "time": version.time, "who": version.who, "why": version.why}
            click.echo(json.dumps(fields))
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version.time))
            click.echo(printable(f"{version.number:>4}  {when}  {version.who:<12}  {version.why}"))


@click.command(context_settings=HELP)
@_file
@click.argument("version", type=int, required=False)
@_why
def undo(file: str, version: int | None, why: str) -> None:
    """Take back the last change of FILE or of what it includes, or bring FILE to VERSION. That is a new version too.

    \b
    Example:
      tidewaiter policy undo policy.toml 3
    """
    home = _last_changed(file) if version is None else file
    old = _version(_history(home), -2 if version is None else version)
    _change(file, home, lambda _text: old.text, why or f"back to version {old.number}")


def _last_changed(file: str) -> str:
    """That file of a policy whose last change is the newest."""
    try:
        files = Policy.load(file).files
    except PolicyError as error:
        files = (file, error.where)  # to take back what is wrong is what undo is for
    changed: dict[str, float] = {}
    for one in dict.fromkeys(files):
        if one == file or _found(one).versions:
            versions = _history(one).versions
            if len(versions) > 1:
                changed[one] = versions[-1].time
    return max(changed, key=changed.__getitem__, default=file)


@click.command(context_settings=HELP)
@_file
@click.argument("old", type=int, default=-2)
@click.argument("new", type=int, default=-1)
def diff(file: str, old: int, new: int) -> None:
    """Show what is different between two versions of FILE, by default the last two.

    \b
    Example:
      tidewaiter policy diff policy.toml 3 5
    """
    found = _history(file)
    click.echo(found.diff(_version(found, old), _version(found, new)), nl=False)


def _version(found: History, number: int) -> Version:
    try:
        return found.get(number)
    except HistoryError as error:
        _fail(str(error))
        raise AssertionError from None
