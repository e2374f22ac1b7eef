"""kernel/attached.py: programs of others at a control group of the test's own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from livelab import PROGRAM_OF_OTHERS, attach_foreign
from tidewaiter.host import cgroup
from tidewaiter.kernel.attached import ATTACH_TYPES, attached, in_the_way, program_name

CONNECT4 = ATTACH_TYPES["tw_connect4"]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a child."""
    path = cgroup.create(f"tidewaiter-test-{secrets.token_hex(4)}")
    (path / "child").mkdir()
    yield path
    cgroup.remove(path)


@pytest.mark.live
def test_an_empty_group_has_nothing_attached(group: Path) -> None:
    for number in ATTACH_TYPES.values():
        assert attached(group, number) == ([], False)
    assert in_the_way(group / "child", "tw_connect4") == ""


@pytest.mark.live
def test_an_attachment_that_excludes_others_is_named(group: Path, tmp_path: Path) -> None:
    with attach_foreign(group, tmp_path):
        (number,), shares = attached(group, CONNECT4)
        assert not shares
        assert program_name(number) == PROGRAM_OF_OTHERS
        said = in_the_way(group / "child", "tw_connect4")
        assert said.startswith(f"; in the way is {PROGRAM_OF_OTHERS}, attached to {group} ")
        assert in_the_way(group / "child", "tw_connect6") == ""
    assert in_the_way(group / "child", "tw_connect4") == ""


@pytest.mark.live
def test_an_attachment_that_lets_others_in_is_not_in_the_way(group: Path, tmp_path: Path) -> None:
    with attach_foreign(group, tmp_path, "multi"):
        assert attached(group, CONNECT4)[1]
        assert in_the_way(group / "child", "tw_connect4") == ""


@pytest.mark.live
def test_a_program_that_is_gone_has_its_number_for_a_name() -> None:
    assert program_name(0xFFFFFFF0) == "number 4294967280"


@pytest.mark.live
def test_what_is_no_control_group_has_nothing_in_the_way(tmp_path: Path) -> None:
    assert in_the_way(tmp_path, "tw_connect4") == ""
    assert attached(tmp_path, CONNECT4) == ([], True)


def test_the_attach_types_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    names = {
        "tw_ingress": "BPF_CGROUP_INET_INGRESS",
        "tw_egress": "BPF_CGROUP_INET_EGRESS",
        "tw_create": "BPF_CGROUP_INET_SOCK_CREATE",
        "tw_socket_operation": "BPF_CGROUP_SOCK_OPS",
        "tw_connect4": "BPF_CGROUP_INET4_CONNECT",
        "tw_connect6": "BPF_CGROUP_INET6_CONNECT",
        "tw_bind4": "BPF_CGROUP_INET4_POST_BIND",
        "tw_bind6": "BPF_CGROUP_INET6_POST_BIND",
        "tw_sendmsg4": "BPF_CGROUP_UDP4_SENDMSG",
        "tw_sendmsg6": "BPF_CGROUP_UDP6_SENDMSG",
        "tw_release": "BPF_CGROUP_INET_SOCK_RELEASE",
    }
    assert names.keys() == ATTACH_TYPES.keys()
    assert shutil.which("cc")
    source = tmp_path / "types.c"
    checks = [
        f"_Static_assert({names[name]} == {number}, {chr(34)}{name}{chr(34)});"
        for name, number in ATTACH_TYPES.items()
    ]
    source.write_text(
        "\n".join(["#include <linux/bpf.h>", *checks, '_Static_assert(BPF_F_ALLOW_MULTI == 2, "");'])
    )
    subprocess.run(["cc", "-fsyntax-only", source], check=True)
