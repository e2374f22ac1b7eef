"""Which network this host is in."""

from __future__ import annotations

from ipaddress import ip_address

from tidewaiter.policy import Policy
from tidewaiter.policy.settings import REFRESH, ListSource, NetworkProfile

POLICY = Policy.parse("""\
version = 1
[network.home]
wifi = ["Home", "Home 5G"]
gateway = "192.168.1.1"
[network.cable]
interface = "en*"
""")


def test_every_mark_that_is_named_has_to_be_there() -> None:
    gateway = (ip_address("192.168.1.1"),)
    assert POLICY.network(("wlan0",), gateway, "Home") == ("home",)
    assert POLICY.network(("enp1s0",), gateway, "Home 5G") == ("home", "cable")
    assert POLICY.network(("wlan0",), (), "Home") == ()
    assert POLICY.network(("wlan0",), gateway, "Cafe") == ()
    assert NetworkProfile().is_here((), (), "")


def test_a_list_says_where_it_comes_from_and_how_often_it_is_asked_for() -> None:
    policy = Policy.parse("""\
version = 1
[list.mine]
path = "mine.txt"
[list.theirs]
url = ["https://lists.example/a", "HTTP://lists.example/b"]
format = "adblock"
refresh = "90 m"
""")
    assert policy.lists == {
        "mine": ListSource(paths=("mine.txt",), refresh=REFRESH),
        "theirs": ListSource(
            urls=("https://lists.example/a", "HTTP://lists.example/b"), format="adblock", refresh=5400
        ),
    }
