"""What a policy refers to and is not there."""

from __future__ import annotations

from pathlib import Path

from tidewaiter.policy import Policy
from tidewaiter.service.absent import absent

TEXT = """\
version = 1
[list.ads]
path = ["ads.txt", "more/*.txt"]
[geography]
country = "country.mmdb"
[[rule]]
list = "ads"
verdict = "python: no_such_module.function"
[[rule]]
verdict = "python: no_such_module.function"
"""


def test_each_is_told_once_until_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(TEXT)
    ads, more, country, function = absent(Policy.load(file))
    assert ads == f"list 'ads': {tmp_path / 'ads.txt'} is not there"
    assert more == f"list 'ads': {tmp_path / 'more/*.txt'} is not there"
    assert country == f"geography, country: {tmp_path / 'country.mmdb'} is not there"
    assert (
        function
        == f"{file}:6:1: the module of no_such_module.function is not there; have PYTHONPATH lead to it"
    )
    (tmp_path / "more").mkdir()
    for name in ("ads.txt", "more/a.txt", "country.mmdb"):
        (tmp_path / name).touch()
    file.write_text(TEXT.replace("no_such_module.function", "json.loads"))
    assert list(absent(Policy.load(file))) == []
