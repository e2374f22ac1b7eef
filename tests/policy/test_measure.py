"""What a compiled policy is made of."""

from __future__ import annotations

from tidewaiter.policy import Policy
from tidewaiter.policy.measure import measure

POLICY = Policy.parse("""\
version = 1
[[rule]]
program = "/usr/bin/curl"
remote = ["10.0.0.0/8", "192.0.2.1"]
verdict = "drop"
[[rule]]
host = "a.example"
not.remote = "lan"
verdict = "ask"
enabled = false
""")


def test_it_counts() -> None:
    found = measure(POLICY)
    assert (found.rules, found.off, found.in_kernel, found.beyond) == (2, 1, 1, 0)
    assert found.dimensions == {"host": (1, 1), "program": (1, 1), "remote": (2, 6)}
    assert found.because == {"host": 1, "verdict ask": 1}
    assert found.tables["programs"][0] == 1
    assert found.tables["remote"][0] == 6  # those of the lan are five, one of which both rules name
    assert found.tables["blocks"] == (0, 0)
    shown = found.as_object()
    assert shown["kernel_bytes"] == sum(table["bytes"] for table in shown["tables"].values())
    assert len(list(found.lines(details=False))) == 1
    assert any("in Python because of host: 1" in line for line in found.lines(details=True))
