"""host/redirect.py: the rules as iptables takes them. What they do is in tests/acceptance/test_redirects.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewaiter.host.redirect import TARGETS, RedirectPorts, check_ports, pin_of, rules

OUT = Path("/pins/hold/2_out")


def test_a_rule_for_each_target_and_protocol() -> None:
    found = rules(OUT, (5300, 7170, 7190))
    assert len(found) == 6
    pin = Path("/pins/hold/2_redirect_9")
    assert found[2] == (pin, f"-p tcp -m bpf --object-pinned {pin} -j REDIRECT --to-ports 7170")
    assert {rule.split()[1] for _, rule in found} == {"tcp", "udp"}
    assert [rule.split()[-1] for _, rule in found] == ["5300", "5300", "7170", "7170", "7190", "7190"]
    assert rules(OUT, ()) == ()


def test_each_target_has_a_pin_of_its_own() -> None:
    assert [str(pin_of(OUT, target)) for target in TARGETS] == [
        "/pins/hold/2_redirect_8",
        "/pins/hold/2_redirect_9",
        "/pins/hold/2_redirect_11",
    ]


def test_the_ports_of_the_original_are_the_default() -> None:
    assert RedirectPorts() == (53, 717, 719)
    assert check_ports(RedirectPorts()) == RedirectPorts()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port(port: int) -> None:
    with pytest.raises(
        ValueError, match=f"the redirect port tunnel is {port}: a port is a number from 1 to 65535"
    ):
        check_ports(RedirectPorts(tunnel=port))


def test_two_targets_at_one_port() -> None:
    with pytest.raises(ValueError, match="two redirect targets share a port: 53, 717, 717"):
        check_ports(RedirectPorts(split_tunnel=717))
