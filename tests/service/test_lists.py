"""Lists that are kept and brought up to date: the old one stays whatever comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tidewaiter.service import lists
from tidewaiter.service.download import Limits
from tidewaiter.service.lists import Outcome, State, Subscription, tidy
from webserver import Web, web_server

GOOD = b"0.0.0.0 ads.example\n0.0.0.0 track.example\n"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def lists_ads(one: Subscription) -> bool:
    return one.list is not None and one.list.contains_name("ads.example")


def failed(outcome: Outcome) -> str:
    assert outcome.state is State.FAILED
    return outcome.sentence


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith("new-")]


# --- from the network ------------------------------------------------------------------------------


def test_a_list_from_a_server_is_kept_and_asked_for_only_if_new(web: Web, folder: Path) -> None:
    web.text(GOOD, ETag='"1"')
    one = Subscription("ads", web.url(), "", folder)
    outcome = one.refresh()
    assert outcome.state is State.NEW
    assert outcome.sentence == f"list 'ads' from {web.url()}: 2 names and 0 ranges of addresses (hosts)"
    assert lists_ads(one)
    web.text(b"", status=304)
    assert one.refresh() == Outcome(State.UNCHANGED, "list 'ads' is up to date")

    again = Subscription("ads", web.url(), "", folder)
    outcome = again.restore()
    assert outcome.sentence == "list 'ads' as it was kept: 2 names and 0 ranges of addresses (hosts)"
    assert lists_ads(again)
    assert again.refresh().state is State.UNCHANGED
    assert web.asked[-1]["If-None-Match"] == '"1"'
    assert leftovers(folder) == []


def test_a_new_version_takes_the_place_of_the_old(web: Web, folder: Path) -> None:
    web.text(GOOD, ETag='"1"')
    one = Subscription("ads", web.url(), "hosts", folder)
    one.refresh()
    old = one.list
    web.text(b"0.0.0.0 other.example\n", ETag='"2"')
    assert one.refresh().state is State.NEW
    assert not lists_ads(one)
    assert old is not None
    assert old.contains_name("ads.example")  # who still has it can go on


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 404, "answers 404 Not Found"),
        (
            b"<html>sorry</html>\n",
            200,
            "has no format that is known here: it begins with '<html>sorry</html>'",
        ),
        (b"", 200, "is empty"),
        (b"# nothing\n", 200, "has no format that is known here: it begins with '# nothing'"),
        (
            b"0.0.0.0 a.example\n" * 2 + b"0.0.0.0 ???\n",
            200,
            "is no good list: 1 of 3 lines are bad; the first: line 3, column 9: ",
        ),
        (b"0.0.0.0 a.example\n" * 10_000, 200, "is longer than 100,000 bytes"),
        (b"\xff" * 1000, 200, "has no format that is known here"),
    ],
)
def test_the_old_list_stays_when_the_new_one_is_bad(
    web: Web, folder: Path, body: bytes, status: int, reason: str
) -> None:
    limits = Limits(size=100_000)
    web.text(GOOD, ETag='"1"')
    one = Subscription("ads", web.url(), "", folder, limits)
    one.refresh()
    web.text(body, status=status)
    assert failed(one.refresh()).startswith(f"list 'ads' stays as it was: {web.url()} {reason}")
    assert lists_ads(one)
    again = Subscription("ads", web.url(), "", folder, limits)
    again.restore()
    assert lists_ads(again)
    assert again.files[1].read_bytes() == GOOD
    assert leftovers(folder) == []
    fresh = Subscription("other", web.url(), "", folder, limits)
    assert failed(fresh.refresh()).startswith(f"list 'other' cannot be used: {web.url()} {reason}")
    assert fresh.list is None


def test_a_list_of_a_named_format_must_list_something(web: Web, folder: Path) -> None:
    web.text(b"# nothing\n")
    one = Subscription("ads", web.url(), "hosts", folder)
    assert failed(one.refresh()).endswith("lists nothing, so it is not believed")


def test_half_a_list_is_no_list(web: Web, folder: Path) -> None:
    def half(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + GOOD)

    web.answers["/list"] = half
    one = Subscription("ads", web.url(), "", folder)
    assert failed(one.refresh()).endswith(f"was cut short: {99 - len(GOOD)} bytes are missing")
    assert one.list is None


def test_a_damaged_file_is_made_again_from_the_text(web: Web, folder: Path) -> None:
    web.text(GOOD, ETag='"1"')
    Subscription("ads", web.url(), "", folder).refresh()
    one = Subscription("ads", web.url(), "", folder)
    compiled = bytearray(one.files[0].read_bytes())
    compiled[-30] ^= 1
    one.files[0].write_bytes(compiled)
    assert one.restore().state is State.NEW
    assert lists_ads(one)
    web.text(GOOD, ETag='"2"')
    assert one.refresh().state is State.NEW  # whether the text is the newest was not known any more
    assert "If-None-Match" not in web.asked[-1]


@pytest.mark.parametrize("kept", [b"", b"\x00" * 100])
def test_what_was_kept_badly_is_not_used(folder: Path, kept: bytes) -> None:
    one = Subscription("ads", "/nowhere", "", folder)
    one.files[0].write_bytes(kept)
    assert failed(one.restore()) == "list 'ads' was not kept"
    assert one.list is None


def test_without_room_to_keep_it_a_list_is_used(
    web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (folder.parent / "list").write_bytes(GOOD)
    one = Subscription("ads", str(folder.parent / "list"), "", folder)
    monkeypatch.setattr(lists, "_put", full)
    assert one.refresh().state is State.NEW
    assert lists_ads(one)
    assert list(folder.iterdir()) == []


# --- from a file -----------------------------------------------------------------------------------


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(GOOD)
    one = Subscription("ads", str(path), "", folder)
    assert one.refresh().state is State.NEW
    assert one.refresh().state is State.UNCHANGED
    again = Subscription("ads", str(path), "", folder)
    assert again.restore().state is State.NEW
    assert again.refresh().state is State.UNCHANGED
    path.write_bytes(b"0.0.0.0 other.example\n")
    assert again.refresh().state is State.NEW
    assert not lists_ads(again)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "garbage", "long"])
def test_the_old_list_stays_when_the_file_is_bad(tmp_path: Path, folder: Path, kind: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(GOOD)
    limits = Limits(size=1000)
    Subscription("ads", str(path), "", folder, limits).refresh()
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "garbage":
            path.write_bytes(b"\x00\x01")
        case "long":
            path.write_bytes(GOOD * 100)
    one = Subscription("ads", str(path), "", folder, limits)
    one.restore()
    reasons = {
        "missing": f"{path}: No such file or directory",
        "folder": f"{path}: Is a directory",
        "pipe": f"{path} is no ordinary file",
        "garbage": f"{path} has no format that is known here",
        "long": f"{path} is longer than 1,000 bytes",
    }
    assert failed(one.refresh()).startswith(f"list 'ads' stays as it was: {reasons[kind]}")
    assert lists_ads(one)


def test_a_file_that_is_being_written_is_read_next_time(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    path.write_bytes(GOOD)
    one = Subscription("ads", str(path), "", folder)
    versions = iter([[1], [2]])
    with monkeypatch.context() as patch:
        patch.setattr(lists, "_version", lambda _: next(versions))
        assert failed(one.refresh()).endswith("was changed while it was read; it is read again next time")
    assert one.refresh().state is State.NEW


def test_bad_lines_are_told_with_their_place(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"a.example\n" * 30 + b"b c\n")
    outcome = Subscription("ads", str(path), "domains", folder).refresh()
    assert outcome.sentence == (
        f"list 'ads' from {path}: 1 names and 0 ranges of addresses (domains); 1 bad lines were passed over, "
        f"the first: {path}, line 31, column 3: 'c' is too much: write one name a line"
    )


# --- both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "form", "sentence"),
    [
        (
            "/x",
            "what",
            "list 'ads': there is no format 'what', only rpz, dnsmasq, adblock, hosts, networks, domains, zones, "
            "opensnitch-domains, opensnitch-networks",
        ),
        ("ftp://x/list", "", "list 'ads': ftp://x/list is neither a path nor a URL of http or https"),
    ],
)
def test_what_cannot_be_subscribed_to_is_told(source: str, form: str, sentence: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^list") as error:
        Subscription("ads", source, form, folder)
    assert str(error.value) == sentence


def test_the_folder_is_for_us_alone_and_tidied(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(GOOD)
    one, other = (Subscription(name, str(path), "", folder) for name in ("one", "other"))
    for each in (one, other):
        each.refresh()
    (folder / "new-crashed").write_bytes(b"")
    (folder / "README").write_bytes(b"not ours")
    assert folder.stat().st_mode & 0o777 == 0o700
    tidy(folder, [one])
    assert {path.name for path in folder.iterdir()} == {one.files[0].name, "README"}
