"""host/scope.py: whose traffic is guarded, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewaiter.host import cgroup
from tidewaiter.host.scope import OWN_NAMESPACE, Scope
from tidewaiter.lab.world import World


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group in a hierarchy that is only files."""
    monkeypatch.setattr(cgroup, "root", lambda: tmp_path)
    for path in (tmp_path, tmp_path / "user.slice"):
        path.mkdir(exist_ok=True)
        (path / "cgroup.procs").touch()
    return tmp_path / "user.slice"


def test_the_whole_host(group: Path) -> None:
    assert Scope.host() == Scope(group.parent, (OWN_NAMESPACE,))
    assert Scope.of() == Scope.host()
    assert str(Scope.host()) == "every program"


def test_one_group_or_one_namespace_or_both(group: Path, tmp_path: Path) -> None:
    namespace = tmp_path / "netns"
    namespace.symlink_to(OWN_NAMESPACE)
    assert Scope.of(group) == Scope(group, (OWN_NAMESPACE,))
    assert str(Scope.of(group)) == f"programs in {group}"
    assert Scope.of(namespace=namespace) == Scope(tmp_path, (namespace,))
    assert str(Scope.of(namespace=namespace)) == f"every program in {namespace}"
    assert str(Scope.of(group, namespace)) == f"programs in {group} in {namespace}"


def test_what_is_not_there_is_said(group: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nothing is no control group; see {tmp_path}"):
        Scope.of(tmp_path / "nothing")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="is no control group"):
        Scope.of(folder)
    (tmp_path / "file").touch()
    for none in ("nowhere", "file", "folder"):
        with pytest.raises(FileNotFoundError, match=f"{none} is no network namespace; see `ip netns list`"):
            Scope.of(group, tmp_path / none)


@pytest.mark.live
def test_a_lab_is_a_scope(world: World) -> None:
    scope = Scope.of(world.cgroup, world.client_namespace)
    assert scope.cgroup == world.cgroup
    assert scope.namespaces == (world.client_namespace,)
    assert OWN_NAMESPACE.exists()
