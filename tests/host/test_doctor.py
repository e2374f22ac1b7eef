"""host/doctor.py: on the live machine, without privileges, and with pieces missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tidewaiter.host import cgroup, doctor, hold, namespace, privileges
from tidewaiter.kernel.bpffs import BPFFS
from tidewaiter.kernel.features import AS_ROOT, Feature

EVERYTHING = (1 << 41) - 1


def by_name(found: list[Feature]) -> dict[str, Feature]:
    names = {one.name: one for one in found}
    assert len(names) == len(found)
    return names


def leftovers(pid: int = os.getpid()) -> list[str]:
    folders = [BPFFS, cgroup.root(), namespace.NAMED]
    return [str(path) for folder in folders for path in folder.glob(f"*doctor-{pid}*")]


@pytest.mark.live
def test_this_machine_has_all_that_is_required_and_nothing_is_left() -> None:
    sockets = len(list(Path("/proc/self/fd").iterdir()))
    found = doctor.examine()
    assert list(found) == ["kernel", "privileges", "programs"]
    assert [one for group in found.values() for one in group if one.required and not one.present] == []
    assert doctor.complete(found)
    assert leftovers() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == sockets
    kernel = by_name(found["kernel"])
    assert kernel["cgroup v2"].detail == str(cgroup.root())
    assert kernel["SOCK_DESTROY"].present
    assert kernel["hold rules"].detail.startswith("by iptables")
    for one in kernel.values():
        assert bool(one.remedy) is not one.present


@pytest.mark.live
def test_rules_that_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object, command: list[str], text: str = "") -> tuple[int, str, str]:
        return 2, "", f"no {command[0]} here"

    monkeypatch.setattr(hold, "_run", fails)
    found = by_name(doctor.machine_features(privileged=True))
    for method, program in (("iptables-nft", "iptables-nft-save"), ("nft", "nft")):
        assert found[f"hold by {method}"].detail == f"no {program} here"
    assert not found["hold rules"].present
    assert "apt install iptables" in found["hold rules"].remedy
    assert not doctor.complete({"kernel": list(found.values())})
    assert leftovers() == []


@pytest.mark.live
def test_one_way_to_hold_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object, command: list[str], text: str = "") -> tuple[int, str, str]:
        return (0, "", "") if "-legacy-" in command[0] else (-1, "", f"{command[0]} is not installed")

    monkeypatch.setattr(hold, "_run", fails)
    found = by_name(doctor.machine_features(privileged=True))
    assert found["hold rules"].present
    assert found["hold rules"].detail == "by iptables-legacy"
    assert found["hold by nft"].detail == "nft is not installed"


@pytest.mark.live
def test_a_place_that_cannot_be_made_is_the_reason_for_all_that_need_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> Path:
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(namespace, "create", refuse)
    found = by_name(doctor.machine_features(privileged=True))
    for name in ("NFQUEUE", "sock_diag", "SOCK_DESTROY", "hold by iptables-nft", "network namespace"):
        assert found[name].detail.endswith("No space left on device")
    assert found["attaching"].present
    assert leftovers() == []


@pytest.mark.live
def test_a_kernel_that_ends_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "destroy", lambda item, where: False)
    found = by_name(doctor.machine_features(privileged=True))
    assert not found["SOCK_DESTROY"].present
    assert "CONFIG_INET_DIAG_DESTROY" in found["SOCK_DESTROY"].remedy


@pytest.mark.live
def test_a_kernel_that_lists_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "open_sockets", lambda where: [])
    found = by_name(doctor.machine_features(privileged=True))
    assert found["sock_diag"].detail == "the kernel does not list a socket that is open"


NARROWED = """
import json
from dataclasses import asdict
from tidewaiter.host import doctor
found = doctor.examine()
print(json.dumps([doctor.complete(found), {name: list(map(asdict, group)) for name, group in found.items()}]))
"""


def test_without_privileges() -> None:
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    child = subprocess.Popen(
        [*drop, sys.executable, "-c", NARROWED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    ready, groups = json.loads(child.communicate()[0])
    kernel = {one["name"]: one for one in groups["kernel"]}
    assert not ready
    for name in ("bpf(2)", "network namespace", "NFQUEUE", "hold rules"):
        assert not kernel[name]["present"]
        assert kernel[name]["remedy"] == AS_ROOT
    assert kernel["bpf(2)"]["detail"] == "Operation not permitted"
    assert not any(one["present"] for one in groups["privileges"])
    assert leftovers(child.pid) == []


def test_privileges() -> None:
    found = by_name(doctor.privilege_features(EVERYTHING & ~(1 << 21) & ~(1 << 19)))
    assert privileges.NEEDED.keys() <= found.keys()
    lacking = {name: one.required for name, one in found.items() if not one.present}
    assert lacking == {"CAP_SYS_ADMIN": True, "CAP_SYS_PTRACE": False}
    assert found["CAP_SYS_ADMIN"].remedy == AS_ROOT
    assert found["CAP_BPF"].remedy == ""


def test_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_USUAL", "")
    found = by_name(doctor.program_features())
    assert found["nft"].present
    assert found["nft"].detail == str(tmp_path / "nft")
    assert [
        one.name for one in found.values() if not one.present and one.remedy == "apt install iptables"
    ] == [
        "iptables-nft",
        "iptables-legacy",
    ]
    assert not any(one.required for one in found.values())


def test_programs_that_are_not_on_a_users_path_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(doctor, "_USUAL", str(tmp_path))
    assert by_name(doctor.program_features())["ip"].detail == str(tmp_path / "ip")


def test_only_what_is_required_counts() -> None:
    there = Feature("a", "", required=True, present=True)
    lacking = Feature("b", "", required=False, present=False)
    assert doctor.complete({"kernel": [there, lacking]})
    assert not doctor.complete({"kernel": [there], "programs": [replace(lacking, required=True)]})
