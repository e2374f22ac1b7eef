"""Where keys and values stand in a text."""

from __future__ import annotations

import time
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.positions import MAX_DEPTH, KeyPath, Positions

TRICKY = '''\
# [[rule]] in a comment, with "a quote
version = 1   # "
"default" . 'out' = "block"

[[rule]] # the first
name = """
[[rule]]
name = "not a rule" \\""" # """
remote = [ # ]
  "10.0.0.0/8", # , "
    'fd00::/8',
  """192.0.2.1""", \'\'\'[[rule]]\'\'\',
]
nested = [[1, 2], [3, "]"]]
[ rule . extra ]
x = {a = 1, b = {c = "}", d.e = [ {f = 2}, {f = 3} ]}}
[[rule]]
"na\\u006de" = "second"
when = 1979-05-27 07:32:00
[[rule.sub]]
y = 1
[[rule.sub]]
y = 2
'''


def scanned(text: str) -> Positions:
    positions = Positions(text)
    positions.scan()
    return positions


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        (("version",), "1   #"),
        (("default", "out"), '"block"'),
        (("rule", 0, "name"), '"""\n[[rule]]'),
        (("rule", 0, "remote"), "[ # ]"),
        (("rule", 0, "remote", 0), '"10.0.0.0/8"'),
        (("rule", 0, "remote", 1), "'fd00::/8'"),
        (("rule", 0, "remote", 2), '"""192.0.2.1"""'),
        (("rule", 0, "remote", 3), "'''[[rule]]'''"),
        (("rule", 0, "nested", 1, 0), "3, "),
        (("rule", 0, "extra", "x", "b", "c"), '"}"'),
        (("rule", 0, "extra", "x", "b", "d", "e", 1, "f"), "3}"),
        (("rule", 1, "name"), '"second"'),
        (("rule", 1, "when"), "1979-05-27 07:32:00\n"),
        (("rule", 1, "sub", 1, "y"), "2\n"),
    ],
)
def test_values(path: KeyPath, rest: str) -> None:
    assert TRICKY.startswith(rest, scanned(TRICKY).of(path))


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        (("default",), '"default" .'),
        (("rule", 0), "[[rule]] # the first"),
        (("rule", 0, "remote"), "remote = ["),
        (("rule", 0, "extra"), "[ rule . extra ]"),
        (("rule", 1), '[[rule]]\n"na'),
        (("rule", 1, "name"), '"na\\u006de" ='),
        (("rule", 1, "sub", 1), "[[rule.sub]]\ny = 2"),
        (("rule", 1, "missing"), '[[rule]]\n"na'),
        (("missing",), "# [[rule]]"),
    ],
)
def test_keys_and_what_encloses_a_missing_one(path: KeyPath, rest: str) -> None:
    assert TRICKY.startswith(rest, scanned(TRICKY).of(path, key=True))


def test_the_tricky_text_is_toml() -> None:
    assert len(tomllib.loads(TRICKY)["rule"]) == 2


@pytest.mark.parametrize(
    ("offset", "place"), [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (5, (3, 2))]
)
def test_lines_and_columns(offset: int, place: tuple[int, int]) -> None:
    assert Positions("ab\n\nc").line_and_column(offset) == place


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("x = 1\n" + ".".join("a" * (MAX_DEPTH + 1)) + " = 1", 6),
        ("[" + ".".join("a" * (MAX_DEPTH + 1)) + "]", 1),
        ("a = " + "[" * (MAX_DEPTH + 1), 4 + MAX_DEPTH),
        ("a = " + "{a=" * (MAX_DEPTH + 1), 4 + 3 * MAX_DEPTH),
        ("a = " + "9" * 1001, 4),
    ],
)
def test_what_no_policy_needs_is_refused_at_its_place(text: str, last: int) -> None:
    positions = Positions(text)
    with pytest.raises(BadValueError):
        positions.scan()
    assert positions.last == last


@pytest.mark.parametrize(
    "part",
    ["a.", "[", "{a=", "a=", '"', "'", "\\", '"""', "'''", "[[a]]\n", "a=1\n", '"\\n"=1\n', "#\n", "9"],
)
@pytest.mark.parametrize("start", ["", "a = ", "a = '''", 'a = """', "a = [", "["])
def test_long_texts_take_time_in_proportion(part: str, start: str) -> None:
    positions = Positions(start + part * 50_000)
    before = time.process_time()
    try:
        positions.scan()
    except BadValueError:
        return
    finally:
        assert time.process_time() - before < 3


KEYS = st.sampled_from(["a", "b-1", "c d", 'e"', "f'", "ü", "", "[[rule]]"])
STRINGS = st.text("ab'\"\\[]{}#=,\n .é", max_size=8)
SCALARS = st.integers() | st.booleans() | STRINGS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


class Writer:
    """Writes TOML in a style that is drawn, and notes where it wrote each value."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.places: dict[KeyPath, int] = {}

    def blank(self, *choices: str) -> None:
        self.text += self.draw(st.sampled_from(choices))

    def string(self, value: str) -> str:
        escaped = "".join(f"\\u{ord(c):04x}" if c in '"\\\n' else c for c in value)
        styles = [f'"{escaped}"', f'"""{escaped}"""', f'"""\n{escaped}"""']
        if "'" not in value and "\n" not in value:
            styles += [f"'{value}'", f"'''\n{value}'''"]
        return str(self.draw(st.sampled_from(styles)))

    def value(self, value: Any, path: KeyPath) -> None:
        self.places[path] = len(self.text)
        if isinstance(value, list):
            self.text += "["
            for index, element in enumerate(value):
                self.blank("", " ", "\n# ], [\n")
                self.value(element, (*path, index))
                self.blank("", " ", " # ,\n")
                self.text += "," if index + 1 < len(value) else self.draw(st.sampled_from(["", ",", ",\n"]))
            self.text += "]"
        elif isinstance(value, dict):
            self.text += "{"
            for index, (key, element) in enumerate(value.items()):
                self.text += ", " if index else " "
                self.pair(key, element, path)
            self.text += " }"
        elif isinstance(value, str):
            self.text += self.string(value)
        else:
            self.text += str(value).lower()

    def pair(self, key: str, value: Any, path: KeyPath) -> None:
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        self.text += key if key.isascii() and key.isalnum() else f'"{escaped}"'
        self.blank("=", " = ", "\t= ")
        self.value(value, (*path, key))

    def table(self, table: dict[str, Any], path: KeyPath) -> None:
        for key, value in table.items():
            self.pair(key, value, path)
            self.blank("\n", " # x = 1\n", "\n\n")


@st.composite
def documents(draw: Any) -> tuple[str, dict[KeyPath, int]]:
    writer = Writer(draw)
    writer.table(draw(st.dictionaries(KEYS, VALUES, max_size=3)), ())
    for index in range(draw(st.integers(0, 3))):
        writer.text += draw(st.sampled_from(["[[rule]]\n", '[[ "rule" ]] # [[rule]]\n']))
        writer.table(draw(st.dictionaries(KEYS, VALUES, max_size=3)), ("rule", index))
    return writer.text, writer.places


@given(documents())
def test_every_value_is_found_in_any_style(document: tuple[str, dict[KeyPath, int]]) -> None:
    text, places = document
    tomllib.loads(text)
    positions = Positions(text)
    try:
        positions.scan()
    except BadValueError:
        return
    assert positions.values == places
