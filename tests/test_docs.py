"""The documentation is true where a machine can tell: pages made from the code, tables, links, and code in it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import tidewaiter
from test_house import ROOT, ROWS, SOURCE
from tidewaiter.cli import main, output
from tidewaiter.driver import connections, device, packets
from tidewaiter.driver.core import Asked, Decided, Driver, Ended
from tidewaiter.driver.device import DeviceStatistics
from tidewaiter.driver.statistics import Statistics
from tidewaiter.host import admission, endings, lookup, machine, owners, queue, symlinks
from tidewaiter.host.counters import NAMES as KERNEL
from tidewaiter.lists import reader
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction
from tidewaiter.model.process import Process
from tidewaiter.names import dns, exchange, first, http, live, pieces, quic, readings, table, talk, tls
from tidewaiter.policy import classifier, index, remembered, versions
from tidewaiter.policy.document import Policy
from tidewaiter.service import engine, firewall, places, rules, world
from tidewaiter.service.download import REDIRECTS, Limits
from tidewaiter.service.report import Reporter

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\btidewaiter (?=[a-z])(.*?)(?= \||;| >| #|$)", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def code(name: str, language: str) -> list[str]:
    """The blocks of code of one language on a page."""
    return [block for found, block in CODE.findall(text(name)) if found == language]


def rows(page: str, heading: str) -> Iterator[list[str]]:
    """The cells of each row in the first table below a heading."""
    _, _, rest = f"\n{text(page)}".partition(f"\n{heading}\n")
    assert rest, f"{page} has no heading {heading!r}"
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table is not None, f"no table below {heading!r}"
    for line in table[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on a forge."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the house -----------------------------------------------------------------------------------


def test_the_house_in_the_design_is_the_one_that_is_enforced() -> None:
    """Every package is in its row, and nothing else is: parts that are only planned have no place yet."""
    there = {path.parent.name for path in SOURCE.glob("tidewaiter/*/__init__.py")} | {"", "__main__"}
    enforced = [row & there for row in reversed(ROWS)]
    drawn = [
        {part.removeprefix("tidewaiter") for part in quoted(parts)}
        for _, parts, _ in rows("docs/design.md", "## The house")
    ]
    assert drawn == [row for row in enforced if row]


def test_every_map_of_the_kernel_half_has_its_owner_in_the_design() -> None:
    header = (SOURCE / "tidewaiter/kernel/maps.h").read_text()
    maps = re.findall(r'^\} (\w+) SEC\("\.maps"\)', header, re.MULTILINE)
    drawn = [name for row in rows("docs/design.md", "## Who owns which state") for name in quoted(row[0])]
    assert sorted(drawn) == sorted(maps)


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:cli|service|host|driver|kernel)/[\w./]+)`", text("docs/design.md"))
)
def test_files_that_the_design_names_are_there(path: str) -> None:
    assert (SOURCE / "tidewaiter" / path).exists()


# --- reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["commands.md", "layers.md", "states.md", "privileges.md"])
def test_a_page_made_from_the_code_is_current(page: str) -> None:
    made = generator().made(page)
    assert text(f"docs/reference/{page}") == made, "run scripts/make_reference.py"


def test_every_counter_is_described() -> None:
    page = text("docs/reference/statistics.md")
    described = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    counters = [field.name for field in fields(Statistics)]
    of_the_device = [field.name for field in fields(DeviceStatistics)]
    of_the_face = ["questions_dropped", "watched_events_dropped"]
    of_the_host = ["answered", "cut", "queue_full", "queue_overrun"]
    assert sorted(described) == sorted([*counters, *KERNEL, *of_the_device, *of_the_face, *of_the_host])


BOUNDS = {
    "held packets": packets.CAPACITY,
    "connections": connections.CAPACITY,
    "ended connections": connections.ENDED_CAPACITY,
    "the driver's events": inspect.signature(Driver).parameters["events"].default,
    "infos for the owner": device.ROOM,
    "lines for GetLogs": device.LINES,
    "ended connections for GetBandwidthStats": device.ENDED,
    "questions for `connections()`": firewall._WAITING,
    "events for `events()`": firewall._WAITING,
    "lines to print": output._WAITING,
    "programs with packet sockets that a notice has named": engine._TOLD,
    "programs, in Python": owners._KEPT,
    "what the kernel told of connections": 2 * connections.CAPACITY,
    "a list from a file or a server": Limits().size,
    "a line of a list": reader.LONGEST_LINE,
    "messages about a list's bad lines": reader._MESSAGES,
    "redirects of a list's URL": REDIRECTS,
    "sets of rules, for each dimension of a policy": index.KEPT,
    "decisions of the policy, for each direction": classifier.KEPT,
    "programs whose end some rule waits for": endings.ROOM,
    "names of rules of earlier policies whose connections events do not tell of": rules._REMEMBERED,
    "checksums, and packages of programs": lookup.KEPT,
    "places of addresses": places.KEPT,
    "files of a policy's list": world.FILES,
    "paths whose symbolic links are known": symlinks.KEPT,
    "rules that are remembered by the text that they were read from": remembered.KEPT,
    "versions of a policy file": versions.KEPT,
    "events ahead of their packets": machine._KEPT,
    "packets on their way to us that came in": admission.WINDOW,
    "characters of the [names](names.md) of all addresses, 64 more for each address": table.ROOM,
    "addresses in one DNS message": table.ANSWERS,
    "names of one address for one program": table.NAMES,
    "links of a CNAME chain": table.LINKS,
    "records of a DNS message": dns.RECORDS,
    "labels of a DNS message, those that pointers repeat counted again": dns.WORK,
    "first bytes of a connection, put in order": pieces.LIMIT,
    "stretches of them that lie apart": pieces.GAPS,
    "first bytes of a connection, those that come twice counted twice": first.BYTES,
    "connections whose first bytes are read at once": readings.CONNECTIONS,
    "connections to resolvers whose answers are read": talk.TALKS,
    "connections followed from their handshake to their first bytes": live.BEGINNING,
    "open connections that keep the names of their addresses alive": live.NAMED,
    "questions of one connection to a resolver that are open": exchange.OPEN,
    "a ClientHello": tls.MAX_HELLO,
    "the head of an HTTP request": http.MAX_HEAD,
    "QUIC Initial packets of a connection": quic.PACKETS,
    "keys of one QUIC connection": quic.KEYS,
    "the kernel's queue of packets": inspect.signature(queue.Queue).parameters["length"].default,
}


def in_kernel(name: str) -> int:
    """The entries of a map, or the bytes of a ring."""
    header = (SOURCE / "tidewaiter/kernel/maps.h").read_text()
    body, _, _ = header.partition(f'}} {name} SEC(".maps")')
    (size,) = re.findall(r"max_entries, (.*)\);", body)[-1:]
    return int(eval(size))


def test_every_bound_is_the_one_in_the_code() -> None:
    page = "docs/reference/bounds.md"
    counters = set(re.findall(r"^\| `(\w+)` \|", text("docs/reference/statistics.md"), re.MULTILINE))
    found = {}
    for what, room, full, *counted in rows(page, "# Bounds"):
        assert full
        assert set(quoted(" ".join(counted))) <= counters, what
        found[what] = int(room.split()[0].replace(",", ""))
    of_kernel = {what: in_kernel(quoted(what)[0]) for what in found if what.startswith("kernel ")}
    assert found == BOUNDS | of_kernel


def a_connection() -> Connection:
    key = ConnectionKey(6, *_end("192.0.2.1", 4000), *_end("198.51.100.2", 443))
    return Connection(1, key, Direction.OUT, Process(7, "/usr/bin/curl"), opened=1, ended=2)


def _end(address: str, port: int) -> tuple[Any, int]:
    from ipaddress import ip_address  # noqa: PLC0415

    return ip_address(address), port


def test_every_field_of_an_event_is_described() -> None:
    connection = a_connection()
    events = (Asked(connection, 1, True, 1), Decided(connection, 1, True), Ended(connection))
    printed: dict[str, set[str]] = {}
    for event in events:
        for line in Reporter().lines(event):
            printed[line["event"]] = set(line)
    page = "docs/reference/events.md"
    common = {row[0].strip("`") for row in rows(page, "## Fields of a connection")} | {"event"}
    assert printed["connection"] == common
    extra = {
        name: set(re.findall(rf"^\| `(\w+)` \| `{name}` \|", text(page), re.MULTILINE)) for name in printed
    }
    assert {name: found - common for name, found in printed.items()} == extra
    kinds = {row[0].strip("`") for row in rows(page, "# Events")}
    assert kinds == {*printed, "stats", "notice"}


def test_every_name_of_the_package_is_in_the_reference() -> None:
    named = {name for row in rows("docs/reference/python.md", "# Python") for name in quoted(row[0])}
    assert named == set(tidewaiter.__all__)


@pytest.mark.parametrize("heading", ["Connection", "Process"])
def test_every_field_is_in_the_reference(heading: str) -> None:
    kind = {"Connection": Connection, "Process": Process}[heading]
    public = {name for name, value in vars(kind).items() if isinstance(value, property)}
    public |= {field.name for field in fields(kind)}
    described = {name for row in rows("docs/reference/python.md", f"## {heading}") for name in quoted(row[0])}
    assert described == public


def test_the_signature_of_firewall_is_the_one_in_the_reference() -> None:
    written = code("docs/reference/python.md", "text")[0]
    function = ast.parse(f"def {written.strip()}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    shown = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    defaults = [
        ast.unparse(value) for value in (*arguments.defaults, *arguments.kw_defaults) if value is not None
    ]
    parameters = list(inspect.signature(tidewaiter.Firewall).parameters.values())
    assert shown == [parameter.name for parameter in parameters]
    assert [eval(value, {"Verdict": tidewaiter.Verdict}) for value in defaults] == [
        one.default for one in parameters
    ]
    rows_ = rows("docs/reference/python.md", "## Firewall")
    assert [row[0].strip("`") for row in rows_] == shown


# --- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in LINK.findall(CODE.sub("", text(name))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall(text("docs/index.md"))}
    assert {page.resolve() for page in DOCS.rglob("*.md")} - linked == {DOCS / "index.md"}


@pytest.mark.parametrize("name", NAMES)
def test_python_on_a_page_compiles(name: str) -> None:
    for block in code(name, "python"):
        compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", NAMES)
def test_policies_on_a_page_are_right(name: str) -> None:
    for block in code(name, "toml"):
        Policy.parse(block, name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/reference/commands.md"])
def test_commands_on_a_page_exist_with_their_options(name: str) -> None:
    for block in code(name, "sh"):
        for line in COMMAND.findall(block.replace("\\\n", " ")):
            check_command(line)


def check_command(line: str) -> None:
    """A command line, up to what it runs itself, is one that `tidewaiter` understands."""
    ours = line.partition(" -- ")[0].partition(" |")[0].replace("'", "")
    words = shlex.split(ours, comments=True)
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r} in: {line}"
        command = found
        words = words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, line


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(AssertionError, match="no command 'watch'"):
        check_command("watch --json")
    with pytest.raises(AssertionError):
        check_command("run --jsn")


# --- live ----------------------------------------------------------------------------------------


@pytest.mark.live
def test_the_program_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "mine.py"
    program.write_text(code("docs/tutorial.md", "python")[0])
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    for line in (
        "curl goes to 10.77.0.13:53",
        "curl goes to [fd77::11]:443",
        "curl may not go to 10.77.0.10:80",
    ):
        assert line in done.stdout.splitlines()
    assert any(int(size) > 100_000 for size in re.findall(r"curl got (\d+) bytes", done.stdout))
    assert "Failed to connect to 10.77.0.10 port 80" in done.stderr


@pytest.mark.live
def test_the_policy_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    policy = tmp_path / "first.toml"
    policy.write_text(code("docs/tutorial.md", "toml")[0])
    command = ["sh", "-c", "curl -sS $LAB_HTTP; curl -sS $LAB_TLS6"]
    done = subprocess.run(
        [sys.executable, "-m", "tidewaiter", "lab", "--policy", policy, "--", *command],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "the lab sees fd77::1 port" in done.stdout
    assert re.search(r"block +curl \(\d+\) → 10\.77\.0\.10:80 tcp +curl only speaks TLS", done.stderr)
    assert re.search(r"accept +curl \(\d+\) → \[fd77::11\]:443 tcp +default", done.stderr)


def test_what_shows_conformance_is_there_and_says_so() -> None:
    """Each line names tests, and each of these the section of the line."""
    table = [
        line.split(" | ") for line in text("docs/reference/conformance.md").split("\n") if line[:3] == "| 2"
    ]
    shown = [
        (section.strip("| "), ROOT / file, name)
        for section, *_, tests in table
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    ]
    assert len(shown) > 60
    assert [line for line in table if "::" not in line[-1]] == []
    assert {section[:3] for section, *_ in shown} == {"2", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}
    for section, file, name in shown:
        found = re.search(rf'def {name}\([^"]*"""(.*?)"""', file.read_text(), re.DOTALL)
        assert found, f"{file}: no {name} with a docstring"
        assert re.search(rf"§{re.escape(section)}(?![.\d]\d)", found[1]), f"{name} does not name §{section}"
