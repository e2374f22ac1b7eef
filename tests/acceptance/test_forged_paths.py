"""A path counts where root says what lies there: in a user namespace anybody may mount any file anywhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from livelab import new_name, scope_of
from tidewaiter import Firewall, Policy
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = [pytest.mark.live, pytest.mark.own_mounts]

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-rm", "sh", "-c")
CURL, BASH = os.path.realpath("/usr/bin/curl"), os.path.realpath("/bin/bash")
CONNECT = f"exec 3<>/dev/tcp/{plan.WEB.v4}/80"  # by bash itself
POLICY = f"""version = 1
[default]
out = "block"
[[rule]]
name = "curl"
program = "{CURL}"
verdict = "accept"
"""


@pytest.mark.parametrize(
    ("command", "program", "succeeds"),
    [
        (f"exec {CURL} -s -o /dev/null http://{plan.WEB.v4}/", CURL, True),
        (f"mount --bind {BASH} {CURL}; exec {CURL} -c '{CONNECT}'", f"userns:{CURL}", False),
        (
            f"mount -t tmpfs none /mnt; mkdir -p /mnt{Path(CURL).parent}; cp {BASH} /mnt{CURL}; "
            f"exec /mnt{CURL} -c 'umount -l /mnt; {CONNECT}'",
            f"userns:{CURL}",
            False,
        ),
    ],
    ids=["the same file", "another file", "mounted no more"],
)
def test_a_path_of_a_users_own_making(world: World, command: str, program: str, succeeds: bool) -> None:
    programs: set[str] = set()
    with Firewall(
        Policy.parse(POLICY),
        listener=lambda event: programs.add(event.connection.process.path),
        scope=scope_of(world),
        name=new_name(world),
    ):
        process = world.popen([*NOBODY, command], stderr=subprocess.DEVNULL)
        assert (process.wait(20) == 0) is succeeds
    assert programs == {program}
