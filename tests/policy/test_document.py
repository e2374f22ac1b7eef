"""The policy file: what it says, and what is said of a wrong one."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strategies import FUZZ
from tidewaiter.model.key import Direction
from tidewaiter.policy.document import MAX_SIZE, Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.reader import RULE_KEYS
from tidewaiter.policy.rule import Answer, PortSpan, Rule

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "examples/policy.toml").read_text()
LINE = re.compile(r"policy\.toml:[1-9][0-9]*:[1-9][0-9]*: [^\n]+; [^\n]+")

FULL = """\
version = 1
[default]
out = "ask"            # accept | block | drop | ask
in = "drop"
[[rule]]
name = "curl stays in the house"
program = "/usr/bin/curl"
user = ["anna", 0]
direction = "out"
remote = ["10.0.0.0/8", "fd00::/8"]
local = "192.0.2.1"
port = ["443/tcp", "8000-8100", 53]
verdict = "block"

[[rule]]
verdict = "accept"
"""


def find(name: str) -> int:
    return {"anna": 1000}[name]


def parse(text: str) -> Policy:
    return Policy.parse(text, find_user=find)


def test_every_dimension() -> None:
    policy = parse(FULL)
    assert policy == Policy(
        rules=(
            Rule(
                name="curl stays in the house",
                answer=Answer.BLOCK,
                programs=("/usr/bin/curl",),
                users=(1000, 0),
                directions=frozenset({Direction.OUT}),
                remote=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
                local=(ip_network("192.0.2.1"),),
                ports=(PortSpan(443, 443, 6), PortSpan(8000, 8100), PortSpan(53, 53)),
                line=5,
            ),
            Rule(name="rule 2", answer=Answer.ACCEPT, line=15),
        ),
        defaults={Direction.OUT: Answer.ASK, Direction.IN: Answer.DROP},
    )
    assert [policy.default(direction) for direction in Direction] == [Answer.ASK, Answer.DROP, Answer.ACCEPT]


def test_windows_line_ends_are_the_same() -> None:
    assert parse(FULL.replace("\n", "\r\n")) == parse(FULL)


def test_rules_in_one_list() -> None:
    text = 'version = 1\nrule = [\n  {verdict = "drop"},\n  {name = "b", verdict = "ask"},\n]'
    assert parse(text).rules == (
        Rule(name="rule 1", answer=Answer.DROP, line=3),
        Rule(name="b", answer=Answer.ASK, line=4),
    )


def test_the_smallest_policy_accepts_everything() -> None:
    assert parse("version = 1") == Policy()
    assert {Policy().default(direction) for direction in Direction} == {Answer.ACCEPT}


def test_the_example() -> None:
    policy = Policy.load(ROOT / "examples/policy.toml")
    assert len(policy.rules) == 7
    assert all(EXAMPLE.splitlines()[rule.line - 1] == "[[rule]]" for rule in policy.rules)


def test_the_reference_shows_policies_that_can_be_read() -> None:
    reference = (ROOT / "docs/reference/policy.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", reference, re.DOTALL)
    assert len(blocks) >= 1
    for block in blocks:
        assert parse(block).rules


RULE = 'version = 1\n[[rule]]\nverdict = "block"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: the policy does not say its version; begin it with version = 1"),
        ("version = 2", "1:11: the policy's version is 2; write version = 1, the only one there is"),
        ("version = true", "1:11: the policy's version is True; write version = 1, the only one there is"),
        ("version = 1\n\nrules = 3", "3:1: a policy has no key 'rules'; did you mean rule?"),
        (
            "version = 1\nx.y = 3",
            "2:1: a policy has no key 'x'; the keys are "
            "version, include, default, group, list, network, geography and rule",
        ),
        (
            'version = 1\ndefault = "drop"',
            '2:11: default is not a table; write [default] and below it lines like out = "accept"',
        ),
        ('version = 1\n[default]\n oout = "drop"', "3:2: [default] has no key 'oout'; did you mean out?"),
        (
            'version = 1\n[default]\nout = "deny"',
            "3:7: there is no verdict 'deny'; write accept, block, drop or ask",
        ),
        ("version = 1\ndefault.in = 1", "2:14: there is no verdict 1; write accept, block, drop or ask"),
        (
            'version = 1\n[rule]\nverdict = "block"',
            "2:1: rule is not a list of tables; write [[rule]] in double brackets",
        ),
        (
            'version = 1\nrule = ["block"]',
            "2:9: this rule is not a table; write [[rule]] and its keys below it",
        ),
        (
            "version = 1\n# one\n [[rule]] # [[rule]]\nname = 'x'",
            '3:2: the rule has no verdict; add a line like verdict = "block" (accept, block, drop or ask)',
        ),
        (
            'version = 1\n[[rule]]\nverdict = "blok"',
            "3:11: there is no verdict 'blok'; did you mean block?",
        ),
        (RULE + 'progam = "/bin/sh"', "4:1: a rule has no key 'progam'; did you mean program?"),
        (
            RULE + "[rule.zone]\nx = 1",
            f"4:1: a rule has no key 'zone'; the keys are {', '.join(RULE_KEYS[:-1])} and limit",
        ),
        (RULE + "name = 5", "4:8: 5 is not a name; write it as text on one line"),
        (RULE + 'name = ""', "4:8: '' is not a name; write it as text on one line"),
        (RULE + 'name = "a\\nb"', "4:8: 'a\\nb' is not a name; write it as text on one line"),
        (
            RULE + "name = 'a'\n[[rule]]\nname = 'a'\nverdict = 'drop'",
            "6:8: the rule of line 2 has the name 'a' too; give each rule its own name",
        ),
        (
            RULE + "name = 'rule 2'\n[[rule]]\nverdict = 'drop'",
            "5:1: the rule of line 2 has the name 'rule 2' too; give each rule its own name",
        ),
        (
            RULE + 'program = ["/bin/sh",\n  "curl"]',
            "5:3: the program 'curl' is not an absolute path; begin it with /",
        ),
        (RULE + "program = []", "4:11: the list program is empty; leave the key out to mean any"),
        (
            RULE + "program = 3",
            "4:11: program has 3 where a path is expected; write a path or a list of them",
        ),
        (
            RULE + "port = [443, [80]]",
            "4:14: port has [80] where a port is expected; write a port or a list of them",
        ),
        (
            RULE + "user = [false]",
            "4:9: user has False where a name or a number is expected; "
            "write a name or a number or a list of them",
        ),
        (
            RULE + "port = 4.5",
            "4:8: port has 4.5 where a port is expected; write a port or a list of them",
        ),
        (RULE + "port = 70000", "4:8: the port 70000 is too large; write 0 to 65535"),
        (
            RULE + "user = 'bert'",
            "4:8: there is no user 'bert'; write the name of a user of this host, or the number",
        ),
        (RULE + 'direction = "inn"', "4:13: there is no direction 'inn'; did you mean in?"),
        (RULE + 'direction = "up"', "4:13: there is no direction 'up'; write out, in or forward"),
        (
            RULE + "remote = [ # ten\n  '192.0.2.0/24', '10.0.0.1/8' ]",
            "5:19: '10.0.0.1/8' has bits set after its first 8; "
            "write 10.0.0.0/8, or 10.0.0.1 for the one address",
        ),
        (
            "version = 1\nrule = [{verdict = 'drop', local = ['::1', 'here']}]",
            "2:44: 'here' is not an address or a network; "
            "write it like 192.0.2.1, 10.0.0.0/8, 2001:db8::1 or fd00::/8",
        ),
        (
            "version = 1\nx = accept",
            '2:5: this is not TOML: Invalid value; put text in "quotes", a list in [brackets] with commas',
        ),
        (
            RULE + 'verdict = "drop"\n',
            "4:17: this is not TOML: Cannot overwrite a value; "
            "remove the key that is there for the second time",
        ),
        (
            "version = 1\r\nx = 'a",
            '2:7: this is not TOML: Expected "\'" before the end; '
            'write key = "text" or key = ["text", "text"]',
        ),
        (
            "[default]\n[default]",
            "2:9: this is not TOML: Cannot declare ('default',) twice; "
            "join it with the table of the same name above it",
        ),
        ("a." * 100_000 + "b = 1", "1:1: this key has too many parts; use the keys of the policy format"),
        (
            "version = " + "[" * 100_000,
            "1:19: this is nested too deeply; write a string or a list of strings",
        ),
        (
            "version = " + "1" * 5000,
            '1:11: this value is too long to be a number; put text in "quotes"',
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as raised:
        parse(text)
    error = raised.value
    assert str(error) == f"policy.toml:{message}"
    assert str(error) == f"{error.where}:{error.line}:{error.column}: {error.problem}; {error.remedy}"


def test_load_reads_a_file_and_names_it(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("version = 1\nx = 'ä' 5")
    with pytest.raises(PolicyError, match=re.escape(f"{file}:2:9: this is not TOML")):
        Policy.load(file)
    file.write_text(FULL.replace("anna", "root"))
    assert Policy.load(str(file)).rules[0].users == (0, 0)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing", "No such file or directory"), (".", "Is a directory"), ("a\0b", "embedded null byte")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.load(tmp_path / path)
    message = f"1:1: the file cannot be read ({reason}); check its path and its permissions"
    assert str(raised.value) == f"{tmp_path / path}:{message}"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes("version = 1\n# ä".encode() + b"\xff\n")
    with pytest.raises(PolicyError) as raised:
        Policy.load(file)
    assert str(raised.value) == f"{file}:2:4: this is not UTF-8; save the file as UTF-8"


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    text = b"version = 1\n#"
    file.write_bytes(text.ljust(MAX_SIZE, b"x"))
    assert Policy.load(file) == Policy()
    file.write_bytes(text.ljust(MAX_SIZE + 1, b"x"))
    with pytest.raises(PolicyError, match="the file has more than 4194304 bytes; make it smaller"):
        Policy.load(file)


def read_or_refused(text: str) -> None:
    try:
        policy = Policy.parse(text, find_user=find)
    except PolicyError as error:
        assert LINE.fullmatch(str(error)), str(error)
        lines = text.replace("\r\n", "\n").split("\n")
        assert error.line <= len(lines)
        assert error.column <= len(lines[error.line - 1]) + 1
    else:
        assert all(rule.name for rule in policy.rules)


@given(st.text() | st.text("[]{}=.,#'\"\\\n a1-"))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    read_or_refused(text)


@given(st.data())
@settings(max_examples=300 * FUZZ)
def test_any_change_of_a_policy_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([FULL, EXAMPLE.replace('"root"', '"anna"')]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        piece = st.text("[]{}=.,#'\"\\\n a1-", max_size=4) | st.sampled_from(
            [
                "[[rule]]\n",
                "[rule]\n",
                '"""',
                "'''",
                "= 5",
                "\r\n",
                "verdict = 'ask'\n",
                "port = 1.5\n",
                "\0",
                "é",
            ]
        )
        text = text[:start] + data.draw(piece) + text[end:]
    read_or_refused(text)


WORDS = ("name", "program", "user", "direction", "remote", "local", "port", "verdict", "zone")
TOML_VALUES = st.sampled_from(
    [
        "1", "-1", "true", "1.5", "nan", "0xFFFF", "1979-05-27", "07:32:00", "[]", "{}", '""', '"out"',
        '"block"', '"::/0"', '["10.0.0.0/8", 5]', '"443/tcp"', '"/bin/sh"', '"anna"', "[[]]", '{a = "b"}',
        "[{}]", '"\\u0000"',
    ]
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(WORDS), TOML_VALUES), max_size=3))
def test_any_values_are_read_or_refused_in_one_line(tables: list[dict[str, str]]) -> None:
    text = "version = 1\n"
    for table in tables:
        text += "[[rule]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    read_or_refused(text)


@given(st.binary() | st.binary(max_size=10).map(lambda tail: FULL.encode()[:-20] + tail))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(data)
    try:
        Policy.load(file)
    except PolicyError as error:
        assert LINE.search(str(error)), str(error)


def test_a_text_instead_of_what_an_included_file_holds(tmp_path: Path) -> None:
    main, part = tmp_path / "main.toml", tmp_path / "part.toml"
    main.write_text('version = 1\ninclude = "part.toml"\n[list.ads]\npath = "ads.txt"\n')
    part.write_text("version = 1\n")
    text = 'version = 1\n[[rule]]\nlist = "ads"\nverdict = "drop"\n'
    assert len(Policy.load(main, instead={str(part): text}).rules) == 1
    with pytest.raises(PolicyError, match=r"part\.toml:3:8: there is no list 'bad'"):
        Policy.load(main, instead={str(part): text.replace("ads", "bad")})
    with pytest.raises(PolicyError, match="more than"):
        Policy.load(main, instead={str(part): "#" * (MAX_SIZE + 1)})
    assert Policy.load(main).rules == ()


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b'\xef\xbb\xbfversion = 1\n[[rule]]\nverdict = "drop"\n')
    assert len(Policy.load(tmp_path / "p.toml").rules) == 1
    with pytest.raises(PolicyError, match=r"policy\.toml:1:11: the policy's version is 2"):
        Policy.parse("\ufeffversion = 2")
