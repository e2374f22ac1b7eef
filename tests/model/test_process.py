"""What is known of a program, and what its cgroup tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.model.process import UNKNOWN, Process

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("path", "name"),
    [("/usr/bin/curl", "curl"), ("curl", "curl"), ("/opt/a b/c (deleted)", "c (deleted)"), ("", "pid 7")],
)
def test_name(path: str, name: str) -> None:
    assert Process(pid=7, path=path).name == name


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("", ""),
        ("/", ""),
        ("/system.slice/ssh.service", "ssh.service"),
        ("/system.slice", "system.slice"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox@1.service",
            "app-firefox@1.service",
        ),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
        ("/system.slice/nginx.service/workers", "nginx.service"),
        ("/system.slice/a.service.d", "system.slice"),
        ("/tidewaiter/lab", ""),
    ],
)
def test_unit(cgroup: str, unit: str) -> None:
    assert Process(pid=1, cgroup=cgroup).unit == unit


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        ("", ""),
        ("/system.slice/ssh.service", ""),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/docker/{ID}/docker/{OTHER}", OTHER),
        (f"/docker/{ID[:63]}", ""),
        (f"/docker/{ID.upper()}", ""),
    ],
)
def test_container(cgroup: str, container: str) -> None:
    assert Process(pid=1, cgroup=cgroup).container == container


@given(st.text(max_size=60))
def test_any_cgroup_path_has_an_answer(cgroup: str) -> None:
    process = Process(pid=1, cgroup=cgroup)
    assert process.unit in cgroup
    assert process.container in cgroup


def test_unknown() -> None:
    assert (UNKNOWN.pid, UNKNOWN.path, UNKNOWN.uid, UNKNOWN.unit, UNKNOWN.container) == (0, "", -1, "", "")


def test_a_process_is_a_value() -> None:
    assert Process(pid=3, started=5) == Process(pid=3, started=5)
    assert Process(pid=3, started=5) != Process(pid=3, started=6)
    assert len({Process(pid=3, arguments=("a",)), Process(pid=3, arguments=("a",))}) == 1
