"""Where links lead: as realpath(3) says, and looked at again when something on the way has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidewaiter.host import symlinks
from tidewaiter.host.symlinks import Symlinks
from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Policy, Rule
from tidewaiter.policy.patterns import Under
from tidewaiter.policy.rule import Conditions


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Links to files, to directories, to links, up, in a circle, and to nowhere."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vim.basic").touch()
    (tmp_path / "bin" / "vi").symlink_to("vim.basic")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "editor").symlink_to(tmp_path / "sbin" / "vi")
    (tmp_path / "sbin").symlink_to("bin")
    (tmp_path / "etc" / "up").symlink_to("../sbin/./vi")
    (tmp_path / "etc" / "none").symlink_to("/not/there/../here")
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "bin/vi",
        "bin/vim.basic",
        "sbin/vi",
        "etc/editor",
        "etc/up",
        "etc/none",
        "etc/none/below",
        "no/such",
        "etc/../bin/vi",
        "",
    ],
)
def test_it_says_what_realpath_says(tree: Path, path: str) -> None:
    assert Symlinks().resolve(f"{tree}/{path}") == os.path.realpath(tree / path)
    assert Symlinks().resolve("/") == "/"


def test_a_circle_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert Symlinks().resolve(f"{tmp_path}/one") == f"{tmp_path}/one"


def test_rules_get_what_links_lead_to(tree: Path) -> None:
    link = str(tree / "etc" / "editor")
    rules = (
        Rule(name="a", answer=Answer.DROP, programs=(link, "/not/there", Under("/opt/"))),
        Rule(name="b", answer=Answer.DROP, programs=("/not/there",)),
        Rule(name="c", answer=Answer.DROP),
    )
    links = Symlinks()
    policy = links.follow(Policy(rules, {Direction.IN: Answer.ASK}))
    assert policy.rules[0].programs == (link, "/not/there", Under("/opt/"), os.path.realpath(link))
    assert policy.rules[1] is rules[1]
    assert policy.rules[2] is rules[2]
    assert policy.defaults == {Direction.IN: Answer.ASK}


def test_so_do_those_who_refuse_them_and_what_has_to_hold_besides(tree: Path) -> None:
    link, target = str(tree / "bin" / "vi"), str(tree / "bin" / "vim.basic")
    values = {"program": (link,), "user": (5,)}
    rule = Rule(
        name="a",
        answer=Answer.DROP,
        none_of=values,
        also=(Conditions(any_of=values, none_of={"user": (6,)}),),
    )
    (found,) = Symlinks().follow(Policy((rule,))).rules
    assert found.none_of == {"program": (link, target), "user": (5,)}
    assert found.also == (Conditions(any_of=found.none_of, none_of={"user": (6,)}),)


def test_what_stays_is_the_same_object(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symlinks, "_YOUNG", -(1 << 62))
    rule = Rule(name="a", answer=Answer.DROP, programs=(str(tree / "bin" / "vi"),))
    links = Symlinks()
    first = links.follow(Policy((rule,)))
    assert links.follow(Policy((Rule(name="b", answer=Answer.DROP), rule))).rules[1] is first.rules[0]


@pytest.mark.parametrize("young", [symlinks._YOUNG, -(1 << 62)])
def test_a_link_that_has_changed_is_looked_at_again(
    tree: Path, monkeypatch: pytest.MonkeyPatch, young: int
) -> None:
    """Also with directories that have been left alone for long, as most have."""
    monkeypatch.setattr(symlinks, "_YOUNG", young)
    rule = Rule(name="a", answer=Answer.DROP, programs=(str(tree / "etc" / "editor"),))
    links = Symlinks()
    assert links.follow(Policy((rule,))).rules[0].programs[1] == str(tree / "bin" / "vim.basic")
    before = (tree / "bin").stat().st_mtime_ns
    (tree / "bin" / "vi").unlink()
    (tree / "bin" / "vi").symlink_to("vim.tiny")
    os.utime(tree / "bin", ns=(before + 1, before + 1))
    assert links.follow(Policy((rule,))).rules[0].programs[1] == str(tree / "bin" / "vim.tiny")


def test_what_comes_into_being_is_seen(tmp_path: Path) -> None:
    rule = Rule(name="a", answer=Answer.DROP, programs=(f"{tmp_path}/new/link",))
    links = Symlinks()
    assert links.follow(Policy((rule,))).rules[0] is rule
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "link").symlink_to("program")
    assert links.follow(Policy((rule,))).rules[0].programs == (
        f"{tmp_path}/new/link",
        f"{tmp_path}/new/program",
    )


def test_only_so_many_paths_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symlinks, "_YOUNG", -(1 << 62))
    monkeypatch.setattr(symlinks, "KEPT", 5)
    links = Symlinks()
    for number in range(20):
        rule = Rule(name="a", answer=Answer.DROP, programs=(f"{tmp_path}/{number}",))
        links.follow(Policy((rule,)))
        assert len(links._known) <= 6
