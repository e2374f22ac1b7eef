"""What random policies and connections are made of: words of rules, and values of connections that they are about."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EXACT = [f"/usr/bin/p{number}" for number in range(60)] + [f"/opt/v{number}/bin/tool" for number in range(4)]
PROGRAMS = [*EXACT, "/usr/bin/sub/p1", "/opt/v1/tool", "/opt/x", "/usr/bin", "/usr/bin/p", ""]
USERS = [0, *range(1000, 1030)]
KERNEL = ["program", "user", "direction", "port", "remote", "local"]
"""What a kernel's tables can hold, with `EXACT` programs, numbers and networks."""

HEX, CONTAINER = "ab" * 32, "0123456789ab" + "c" * 52
LISTS = {
    "ads": ["ads.example.com", "198.51.100.0/24", "*.deep.example"],
    "bad": ["203.0.113.9", "www.example.com", "2001:db8:bad::/48"],
    "nets": ["203.0.113.0/24", "2001:db8::/32"],
}
MONDAY = time.mktime((2026, 1, 5, 0, 0, 0, 0, 0, -1))
END = datetime(2026, 1, 6, 12, tzinfo=UTC)

LOOSE: dict[str, list[Any]] = {
    "program": ["/usr/bin/", "/opt/", "/opt/v1/", "/usr/bin/p1*", "/opt/*/tool", "/opt/**", "/*/bin/p?", "re:p[0-3]$",
                "re:^/opt/", ""],
    "user": ["root", "", "re:^10", "1003"],
    "remote": ["re:^203[.]", "re::bad:"],
    "local": ["re:^10[.]", "re:1$"],
}  # fmt: skip
"""Words of the same dimensions that need more than a table."""

WORDS: dict[str, list[Any]] = {
    "arguments": ["curl -k", "*-k*", "re:--in.ecure", "", "curl --insecure -?"],
    "ancestors": ["/usr/sbin/cron", "/usr/", "/bin/**", ""],
    "environment": ["VPN=no", "LANG=*", "re:^VPN=[yn]", ""],
    "sha256": [HEX, HEX.upper(), ""],
    "sha1": ["cd" * 20, ""],
    "md5": ["ef" * 16, ""],
    "package": ["curl", "lib*", "re:^c", ""],
    "script": ["/srv/a.py", "/srv/", "-m http.server", "*.py", "/srv/*.py", ""],
    "app": ["snap:firefox", "flatpak:*", ""],
    "user_group": [0, "100", "re:1", ""],
    "pid": [1, "4711", "re:7", ""],
    "unit": ["nginx.service", "ssh*", ""],
    "cgroup": ["/people/", "/people/anna", "/a/*", "/a/**", ""],
    "container": [CONTAINER, CONTAINER[:12], "re:^01", ""],
    "protocol": ["tcp", "udp6", "TCP4", 47, "icmp", "132"],
    "remote_port": [443, "1-1024", "https/tcp", "udp"],
    "local_port": [443, "40000-65535/tcp", "0-1023"],
    "interface": ["eth0", "wl*", "re:^(eth|wl)", ""],
    "country": ["DE", "us", ""],
    "continent": ["EU", "as", ""],
    "asn": ["AS64500", 64501, ""],
    "host": ["www.example.com", ".Example.com", "*.example.*", "re:^ads[0-9]*[.]", "???.example.com", ""],
    "asked_host": ["WWW.example.com", ".deep.example", "ads*", ""],
    "list": ["ads", "bad", "nets"],
    "time": ["08:00-18:00", "22:00-06:00", "00:00-00:01"],
    "weekday": ["mon", "sat-mon", "tue-fri"],
    "network": ["home", "elsewhere"],
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "arguments": [["curl", "-k"], ["curl", "--insecure", "-k"], ["wget"], []],
    "ancestors": [["/bin/sh", "/usr/sbin/cron"], ["/bin/sh"], ["/usr/sbin/cron2"], []],
    "environment": [{"VPN": "no"}, {"LANG": "C", "VPN": "yes"}, {"XVPN": "no"}, {}],
    "sha256": [HEX, "cd" * 32, ""],
    "sha1": ["cd" * 20, "CD" * 20, ""],
    "md5": ["ef" * 16, "ee" * 16, ""],
    "package": ["curl", "libfoo", "curl2", ""],
    "script": ["/srv/a.py", "/srv/b/c.py", "-m http.server", "b.py", "/srv", ""],
    "app": ["snap:firefox", "flatpak:org.x", "snap:firefox2", ""],
    "user_group": [0, 100, 101, ""],
    "pid": [1, 4711, 12, 0],
    "unit": ["nginx.service", "sshd.service", "nginx", ""],
    "cgroup": ["/people/anna", "/people", "/people/anna/b", "/a/b", "/a/b/c", ""],
    "container": [CONTAINER, "f" * 64, "01" * 32, ""],
    "interface": ["eth0", "eth01", "wlan0", ""],
    "country": ["DE", "US", "FR", ""],
    "continent": ["EU", "AS", ""],
    "asn": [64500, 64501, 64502, 0],
    "name": ["www.example.com", "example.com", "notexample.com", "ads7.example.net", "x.deep.example", "",
             "ADS.example.com", "deep.example", "www.example.com.evil.example"],
    "aliases": [["www.example.com"], ["a.deep.example", "Ads.example.com"], []],
    "network": [["home"], ["work"], ["home", "work"], []],
    "time": [MONDAY + 3600 * hour + 86400 * day + second for hour in (0, 6, 8, 18, 22) for day in (0, 1, 5, 6)
             for second in (0, -1)] + [END.timestamp() + step for step in (-1, 0, 1)],
}  # fmt: skip
KEY_OF = {"host": "name", "asked_host": "name", "weekday": "time", "until": "time"}
"""The key of a connection that a dimension is about, where they are called differently."""

SITES = ["10.0.0.1", "203.0.113.9", "192.168.1.1", "fd00::1", "2001:db8:bad::1"]


@dataclass(frozen=True)
class Material:
    """What policies and connections are drawn from."""

    programs: Sequence[str] = tuple(EXACT)
    """Exact paths."""
    users: Sequence[int] = tuple(USERS)
    addresses: Sequence[str] = ()
    """Those that matter; random ones where there are none."""
    ports: Sequence[int] = ()
    """The same."""
    words: Mapping[str, Sequence[Any]] = field(default_factory=lambda: WORDS)
    """Of dimensions that are not `KERNEL`."""
    in_tables: Sequence[str] = ("accept", "block", "drop", "limit")
    """Verdicts of which the kernel gives each by itself."""
    asking: Sequence[str] = ("ask", "redirect-tunnel", "python: my.function", "ask")
    """And those that only Python gives."""
