"""What a policy says besides the dimensions: groups, lives, limits, functions, lists, networks, included files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewaiter.model.key import Direction
from tidewaiter.policy import Answer, Policy, PolicyError
from tidewaiter.policy.reader import MAX_ALSO
from tidewaiter.policy.settings import ListSource

RULE = 'version = 1\n[[rule]]\nverdict = "drop"\n'


def test_actions() -> None:
    text = "version = 1\n" + "".join(
        f"[[rule]]\n{line}\n"
        for line in (
            'verdict = "limit"\nlimit = "1.5 MB/s"',
            'verdict = "limit"\nlimit = {up = "80 kbit/s"}',
            'verdict = "python: my.module.function"',
            'verdict = "redirect-name-server"',
            'verdict = "ask"\nuntil = "restart"\nlog = false\nenabled = false\ngroup = "a"',
            'verdict = "ask"\nuntil = 1970-01-01T01:00:00+01:00',
        )
    )
    rules = Policy.parse(text).rules
    assert [(rule.answer, rule.limit) for rule in rules[:2]] == [
        (Answer.LIMIT, (1_500_000, 1_500_000)),
        (Answer.LIMIT, (0, 10_000)),
    ]
    assert (rules[2].answer, rules[2].function) == (Answer.PYTHON, "my.module.function")
    assert rules[3].answer is Answer.REDIRECT_NAME_SERVER
    assert (rules[4].until, rules[4].log, rules[4].enabled, rules[4].group) == ("restart", False, False, "a")
    assert rules[5].until == 0.0


def test_rules_of_a_firewall_that_has_ended_are_left_out_at_a_start() -> None:
    text = RULE + "".join(
        f'[[rule]]\nverdict = "ask"\nuntil = "{life}"\n' for life in ("once", "process-end", "always")
    )
    policy = Policy.parse(text)
    assert [rule.name for rule in policy.at_start().rules] == ["rule 1", "rule 4"]
    assert policy.at_start().at_start() is not policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            RULE + 'until = "soon"',
            "4:9: 'soon' is no end of a rule; write always, restart, process-end or once, a duration like 2h, or",
        ),
        (RULE + 'limit = "1 MB/s"', "2:1: a limit needs the verdict limit and a rate"),
        ('version = 1\n[[rule]]\nverdict = "limit"\nlimit = "fast"', "4:9: 'fast' is not a rate; "),
        ('version = 1\n[[rule]]\nverdict = "python: x"', "3:11: 'python: x' names no function; "),
        (
            'version = 1\n[[rule]]\nverdict = "redirect"',
            "3:11: there is no verdict 'redirect'; did you mean redirect-",
        ),
        (RULE + "enabled = 1", "4:11: enabled is 1; write true or false"),
        (RULE + "group = 1", "4:9: 1 is not a name; "),
        (RULE + 'not = "x"', "4:7: rule.not is not a table; "),
        (RULE + "not.ports = 1", "4:1: rule.not has no key 'ports'; did you mean port?"),
        (RULE + "not.not.port = 1", "4:1: rule.not has no key 'not'; "),
        (RULE + "not.port = [1, 70000]", "4:16: the port 70000 is too large; "),
        (RULE + "also = [{port = 1}, {port = 0.5}]", "4:29: port has 0.5 where a port is expected; "),
        (RULE + "also = [" + "{}," * (MAX_ALSO + 1) + "]", f"4:8: also has more than {MAX_ALSO} tables; "),
        (RULE + 'list = "ads"', "4:8: there is no list 'ads'; write [list.ads] and what it is below it"),
        (RULE + 'network = "home"', "4:11: there is no network 'home'; "),
        (RULE + 'time = "8-9"', "4:8: '8-9' is not a time of day; "),
        (RULE + 'weekday = "someday"', "4:11: 'someday' is not a weekday; "),
        (RULE + 'host = "re:("', "4:8: the expression cannot be used (missing ): (); "),
        (RULE + 'remote = ""', "4:10: '' is not an address or a network; "),
        (
            RULE + 'remote = "lann"',
            "4:10: 'lann' is not an address or a network; did you mean the scope lan?",
        ),
        ("version = 1\n[list.a]\nformat = 'hosts'", "2:1: the list 'a' comes from nowhere; "),
        ("version = 1\n[list]\na = 5", "3:5: list.a is not a table; "),
        (
            "version = 1\n[list.a]\npath = 'x'\nformat = 'host'",
            "4:10: there is no format 'host'; did you mean hosts?",
        ),
        (
            "version = 1\n[list.a]\nurl = ['https://x', 'ftp://y']",
            "3:21: 'ftp://y' is not a URL; write it like https://lists.example/ads.txt",
        ),
        (
            "version = 1\n[list.a]\nurl = 'https://x'\nrefresh = 'now'",
            "4:11: 'now' is not a period; write it like 30m, 6h or 1d, at most 366d",
        ),
        (
            "version = 1\n[list.a]\npath = 'x'\nrefresh = '6h'",
            "4:1: refresh is for a list with a url; remove it: files are read when they change",
        ),
        ("version = 1\n[network.elsewhere]\nwifi = 'x'", "2:1: the network 'elsewhere' is told by nothing; "),
        ("version = 1\n[network.a]\ngateway = 'x'", "3:11: 'x' is not an address or a network; "),
        ("version = 1\n[geography]\ncity = 'x'", "3:1: geography has no key 'city'; "),
        ("version = 1\n[geography]\nasn = []", "3:7: asn is a list; write the path of one file"),
        ("version = 1\ninclude = [1]", "2:12: 1 is not a text; "),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.parse(text)
    assert str(raised.value).startswith(f"policy.toml:{message}")


def test_included_files_come_behind_in_the_order_of_their_names(tmp_path: Path) -> None:
    main, folder = tmp_path / "p.toml", tmp_path / "policy.d"
    folder.mkdir()
    main.write_text(
        'version = 1\ninclude = "policy.d/*.toml"\ndefault.in = "drop"\n[[rule]]\nlist = "ads"\nverdict = "drop"'
    )
    (folder / "20.toml").write_text(
        'version = 1\n[[rule]]\ngroup = "a"\nverdict = "ask"\n[list.ads]\npath = "ads.txt"'
    )
    (folder / "10.toml").write_text(
        'version = 1\n[group.a]\nenabled = false\n[[rule]]\nname = "ten"\nverdict = "accept"'
    )
    policy = Policy.load(main)
    assert [rule.name for rule in policy.rules] == ["rule 1", "ten", "rule 1 of 20.toml"]
    assert [Path(rule.file).name for rule in policy.rules] == ["p.toml", "10.toml", "20.toml"]
    assert policy.lists == {"ads": ListSource(paths=("ads.txt",))}
    assert not policy.is_on(policy.rules[2])
    assert policy.defaults == {Direction.IN: Answer.DROP}
    assert [Path(file).name for file in policy.files] == ["p.toml", "10.toml", "20.toml"]
    assert policy.folders == (str(folder),)
    (folder / "30.toml").write_text('version = 1\ndefault.out = "drop"')
    with pytest.raises(PolicyError, match=r"30\.toml:2:1: an included file has no default; "):
        Policy.load(main)
    (folder / "30.toml").write_text('version = 1\n[[rule]]\nname = "ten"\nverdict = "drop"')
    with pytest.raises(PolicyError, match=r"30\.toml:3:8: the rule in .*10\.toml:4 has the name 'ten' too"):
        Policy.load(main)
    main.write_text('version = 1\ninclude = "none.toml"')
    with pytest.raises(PolicyError, match=r"p\.toml:2:11: 'none\.toml' is not there; "):
        Policy.load(main)
