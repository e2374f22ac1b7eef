"""service/world.py: what rules are looked up in, from files and servers; what cannot be read is told, and stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmdb import write_mmdb
from tidewaiter.lists import FORMATS
from tidewaiter.policy import Policy
from tidewaiter.policy.settings import BUILT_IN, LIST_FORMATS
from tidewaiter.service import world as module
from tidewaiter.service.world import Sources, read_world
from webserver import Web, web_server

RULE = '[[rule]]\nlist = "ads"\nverdict = "block"\n'
ADDRESS = ip_address("192.0.2.1")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


class Said(list[str]):
    """The sentences, each but once."""

    def take(self) -> list[str]:
        taken = list(self)
        self.clear()
        return taken


@pytest.fixture
def said() -> Said:
    return Said()


def written(folder: Path, tables: str, rules: str = RULE) -> Policy:
    path = folder / "policy.toml"
    path.write_text(f"version = 1\n{tables}\n{rules}")
    return Policy.load(path)


def put(path: Path, text: str) -> Path:
    """As a program that writes with care does it."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    return new.replace(path)


def has(sources: Sources, *names: str) -> list[bool]:
    return [sources.world().lists["ads"].contains_name(name) for name in names]


def test_the_policy_knows_the_formats_that_there_are() -> None:
    assert set(LIST_FORMATS) == set(FORMATS)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hosts", "0.0.0.0 a.example\n"),
        ("domains", "a.example\n"),
        ("zones", "a.example\n"),
        ("adblock", "||a.example^\n"),
        ("rpz", "$TTL 60\n@ SOA . . 1 60 60 60 60\na.example CNAME .\n"),
        ("dnsmasq", "address=/a.example/\n"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_every_format_is_read(tmp_path: Path, form: str, text: str, named: bool) -> None:
    put(tmp_path / "ads.txt", text)
    policy = written(tmp_path, f'[list.ads]\npath = "ads.txt"\n{f"format = {form!r}" if named else ""}')
    said: list[str] = []
    world = read_world(policy, None, said.append)
    assert said == []
    assert world.lists["ads"].contains_name("a.example")
    assert world.lists["ads"].contains_name("x.a.example") == (
        form in {"adblock", "dnsmasq"} or (form == "zones" and named)
    )


def test_paths_and_patterns_are_one_list(tmp_path: Path, said: Said) -> None:
    put(tmp_path / "lists/a.txt", "a.example\n")
    put(tmp_path / "lists/b.txt", "||b.example^\n")
    put(tmp_path / "far.txt", "c.example\n192.0.2.0/24\n")
    policy = written(
        tmp_path, f'[list.ads]\npath = ["lists/*.txt", "{tmp_path}/far.txt", "none.txt", "*.no"]'
    )
    sources = Sources(policy, None, said.append)
    assert has(sources, "a.example", "x.b.example", "c.example", "d.example") == [True, True, True, False]
    assert sources.world().lists["ads"].contains_address(ADDRESS)
    assert said.take() == [
        f"list 'ads' has no files: there is none like {tmp_path}/*.no",
        f"list 'ads' cannot be used: {tmp_path}/none.txt: No such file or directory",
    ]


def test_what_no_rule_names_is_not_read(tmp_path: Path, said: Said) -> None:
    tables = (
        '[list.ads]\npath = "ads.txt"\n[list.other]\npath = "none.txt"\n[geography]\ncountry = "none.mmdb"'
    )
    put(tmp_path / "ads.txt", "a.example\n")
    world = read_world(written(tmp_path, tables), None, said.append)
    assert (list(world.lists), world.geography, said) == (["ads"], None, [])
    rule = '[[rule]]\nnot.list = ["other"]\nalso = {asn = 5}\nverdict = "block"\n'
    read_world(written(tmp_path, tables, RULE + rule), None, said.append)
    assert len(said) == 2


def test_files_are_read_when_they_change(tmp_path: Path, said: Said) -> None:
    put(tmp_path / "lists/a.txt", "a.example\n")
    sources = Sources(written(tmp_path, '[list.ads]\npath = "lists/*.txt"'), None, said.append)
    sources.world()
    sources.look_at_files()
    assert not sources.stale
    put(tmp_path / "lists/a.txt", "b.example\n")
    sources.look_at_files()
    assert sources.stale
    assert has(sources, "a.example", "b.example") == [False, True]
    assert not sources.stale
    put(tmp_path / "lists/new.txt", "c.example\n")
    sources.look_at_files()
    assert has(sources, "b.example", "c.example") == [True, True]
    (tmp_path / "lists/a.txt").unlink()
    sources.look_at_files()
    assert has(sources, "b.example", "c.example") == [False, True]
    assert said.take() == [
        f"list 'ads' from {tmp_path}/lists/a.txt: 1 names and 0 ranges of addresses (domains)",
        f"list 'ads' from {tmp_path}/lists/new.txt: 1 names and 0 ranges of addresses (domains)",
    ]


@pytest.mark.parametrize("bad", ["\x00\x01", "", None, "a b c\n" * 10])
def test_the_old_list_stays_when_the_new_one_is_bad(tmp_path: Path, said: Said, bad: str | None) -> None:
    path = put(tmp_path / "ads.txt", "a.example\n")
    sources = Sources(written(tmp_path, '[list.ads]\npath = "ads.txt"'), None, said.append)
    sources.world()
    for text in (bad, bad and f"{bad}\n"):
        path.unlink(missing_ok=True)
        if text is not None:
            put(path, text)
        sources.look_at_files()
        sources.look_at_files()
        assert not sources.stale
    assert has(sources, "a.example") == [True]
    (sentence,) = said.take()  # once, however often it is looked at
    assert sentence.startswith(f"list 'ads' stays as it was: {path}")
    put(path, "b.example\n")
    sources.look_at_files()
    assert has(sources, "a.example", "b.example") == [False, True]


def test_a_list_has_so_many_files_and_no_more(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES", 2)
    for name in "abc":
        put(tmp_path / f"lists/{name}.txt", f"{name}.example\n")
    sources = Sources(written(tmp_path, '[list.ads]\npath = "lists/*.txt"'), None, said.append)
    sources.look_at_files()
    assert has(sources, "a.example", "b.example", "c.example") == [True, True, False]
    assert said.take() == ["list 'ads' has more than 2 files: the first 2 are read"]


def test_what_another_policy_has_read_is_not_read_again(tmp_path: Path, said: Said) -> None:
    path = put(tmp_path / "ads.txt", "a.example\n")
    tables = '[list.ads]\npath = "ads.txt"'
    first = Sources(written(tmp_path, tables), None, said.append)
    second = Sources(
        written(tmp_path, tables, RULE + '[[rule]]\nverdict = "drop"\n'), None, said.append, first
    )
    assert second._parts()[0] is first._parts()[0]
    put(path, "b.example\n")
    third = Sources(written(tmp_path, tables + '\nformat = "domains"'), None, said.append, second)
    assert has(third, "b.example") == [True]
    assert has(Sources(written(tmp_path, tables), None, said.append, second), "b.example") == [True]


# --- servers -----------------------------------------------------------------------------------------


def with_etag(web: Web, text: str, etag: str) -> None:
    """Answers as a server that knows its versions."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        same = request.headers.get("If-None-Match") == etag
        body = b"" if same else text.encode()
        request.send_response(304 if same else 200)
        request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    web.answers["/list"] = answer


def ask(sources: Sources) -> None:
    sources.ask_servers(lambda: False)


def test_a_server_is_asked_by_whoever_has_time(tmp_path: Path, web: Web, said: Said) -> None:
    with_etag(web, "a.example\n", '"1"')
    policy = written(tmp_path, f'[list.ads]\nurl = "{web.url()}"\nrefresh = "1s"')
    sources = Sources(policy, tmp_path / "state", said.append)
    assert (has(sources, "a.example"), list(sources.missing()), web.asked) == ([False], [web.url()], [])
    ask(sources)
    assert sources.stale
    assert (has(sources, "a.example"), sources.missing()) == ([True], {})
    ask(sources)
    assert len(web.asked) == 1  # it is not time yet

    again = Sources(policy, tmp_path / "state", said.append)  # as after a restart
    assert has(again, "a.example") == [True]
    ask(again)
    assert (len(web.asked), web.asked[1]["If-None-Match"], again.stale) == (2, '"1"', False)
    with_etag(web, "b.example\n", '"2"')
    while not again.stale:
        ask(again)  # a second goes by
    assert has(again, "a.example", "b.example") == [False, True]
    assert said.take() == [
        f"list 'ads' from {web.url()}: 1 names and 0 ranges of addresses (domains)",
        f"list 'ads' from {web.url()}: 1 names and 0 ranges of addresses (domains)",
    ]


def test_a_server_that_fails_is_asked_again_soon(
    tmp_path: Path, web: Web, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    web.text(b"", status=503)
    sources = Sources(written(tmp_path, f'[list.ads]\nurl = "{web.url()}"'), None, said.append)
    times = []
    for _ in range(2000):
        before = len(web.asked)
        ask(sources)
        if len(web.asked) > before:
            times.append(clock[0] - 1000)
        clock[0] += 1
    assert times == [0, 10, 30, 70, 150, 310, 630, 1230, 1830]
    assert len(said.take()) == 1
    with_etag(web, "a.example\n", '"1"')
    clock[0] += 600
    ask(sources)
    assert has(sources, "a.example") == [True]
    clock[0] += 12 * 3600 - 1
    ask(sources)
    asked = len(web.asked)
    clock[0] += 1
    ask(sources)
    assert len(web.asked) == asked + 1


def test_a_command_fetches_what_was_not_kept(tmp_path: Path, web: Web, said: Said) -> None:
    with_etag(web, "a.example\n", '"1"')
    put(tmp_path / "mine.txt", "b.example\n")
    policy = written(tmp_path, f'[list.ads]\nurl = "{web.url()}"\npath = "mine.txt"')
    for _ in range(2):
        members = read_world(policy, tmp_path / "state", said.append).lists["ads"]
        assert members.contains_name("a.example")
        assert members.contains_name("b.example")
    assert len(web.asked) == 1
    kept = {path.suffix for path in (tmp_path / "state/lists").iterdir()}
    assert (kept, said.take()) == ({".list", ".text"}, [])


def test_asking_stops_when_there_is_no_more_to_be_done(tmp_path: Path, web: Web, said: Said) -> None:
    for path in ("/list", "/other"):
        web.text(b"a.example\n", path)
    policy = written(tmp_path, f'[list.ads]\nurl = ["{web.url()}", "{web.url("/other")}"]')
    Sources(policy, None, said.append).ask_servers(lambda: True)
    assert len(web.asked) == 1


def test_without_a_folder_to_keep_them_lists_are_used(tmp_path: Path, web: Web, said: Said) -> None:
    with_etag(web, "a.example\n", '"1"')
    (tmp_path / "state").write_text("no folder")
    world = read_world(written(tmp_path, f'[list.ads]\nurl = "{web.url()}"'), tmp_path / "state", said.append)
    assert world.lists["ads"].contains_name("a.example")
    assert said.take() == [f"lists are not kept: {tmp_path}/state/lists: {os.strerror(20)}"]


def test_what_is_kept_of_other_lists_goes(tmp_path: Path, said: Said) -> None:
    put(tmp_path / "ads.txt", "a.example\n")
    state = tmp_path / "state"
    Sources(written(tmp_path, '[list.ads]\npath = "ads.txt"\nformat = "domains"'), state, said.append)
    sources = Sources(written(tmp_path, '[list.ads]\npath = "ads.txt"'), state, said.append)
    assert len(list((state / "lists").iterdir())) == 2
    sources.tidy()
    assert len(list((state / "lists").iterdir())) == 1


# --- where addresses are -----------------------------------------------------------------------------


def test_where_addresses_are(tmp_path: Path, said: Said) -> None:
    rule = '[[rule]]\ncountry = "DE"\nverdict = "block"\n'
    path = write_mmdb(tmp_path / "c.mmdb", {"192.0.2.0/24": {"country": {"iso_code": "DE"}}})
    policy = written(tmp_path, '[geography]\ncountry = "c.mmdb"', rule)
    sources = Sources(policy, None, said.append)
    geography = sources.world().geography
    assert geography is not None
    assert geography.country(ADDRESS) == "DE"
    sources.look_at_files()
    assert not sources.stale
    assert Sources(policy, None, said.append, sources)._geography is sources._geography
    put(path, "no database")
    sources.look_at_files()
    sources.look_at_files()
    assert not sources.stale
    write_mmdb(path, {"192.0.2.0/24": {"country": {"iso_code": "FR"}}})
    sources.look_at_files()
    assert sources.stale
    geography = sources.world().geography
    assert geography is not None
    assert geography.country(ADDRESS) == "FR"
    (sentence,) = said.take()
    assert sentence.startswith("where addresses are stays as it was: ")
    (tmp_path / "c.mmdb").unlink()
    assert read_world(policy, None, said.append).geography is None
    assert said.take()[0].startswith("where addresses are is not known: ")


def test_the_list_of_dns_in_secret_is_there_unless_there_is_another(tmp_path: Path, said: Said) -> None:
    rule = '[[rule]]\nname = "x"\nlist = "encrypted-dns"\nverdict = "block"\n'
    one = Sources(written(tmp_path, "", rule), None, said.append).world().lists["encrypted-dns"]
    assert one.contains_name("dns.google")
    put(tmp_path / "mine.txt", "doh.example\n")
    mine = written(tmp_path, '[list.encrypted-dns]\npath = "mine.txt"\n', rule)
    other = Sources(mine, None, said.append).world().lists["encrypted-dns"]
    assert other.contains_name("doh.example")
    assert not other.contains_name("dns.google")
    assert said == []


def test_every_list_that_a_policy_may_name_without_a_table_is_there() -> None:
    assert set(module._BUILT_IN) == set(BUILT_IN)
