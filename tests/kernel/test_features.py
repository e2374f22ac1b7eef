"""kernel/features.py: how a probe becomes a result, and the probes on the live kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tidewaiter.kernel import bpffs, features, libbpf, objects
from tidewaiter.kernel.features import AS_ROOT, Feature, Probe, kernel_features
from tidewaiter.kernel.libbpf import KernelError


def raising(error: Exception) -> Callable[[], NoReturn]:
    def attempt() -> NoReturn:
        raise error

    return attempt


def probe(attempt: Callable[[], str], *, required: bool = True) -> Probe:
    return Probe("thing", "for this", "buy it", attempt, required)


def test_what_is_there() -> None:
    found = probe(lambda: "much of it").run(privileged=True)
    assert found == Feature("thing", "for this", required=True, present=True, detail="much of it", remedy="")


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OSError(errno.ENOSYS, "Function not implemented"), "Function not implemented"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "/x: No such file or directory"),
        (FileNotFoundError("nothing is mounted"), "nothing is mounted"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "Operation not permitted"),
        (KernelError(errno.EINVAL, "loading it: Invalid argument"), "loading it: Invalid argument"),
        (RuntimeError("a command failed"), "a command failed"),
        (ValueError("it does not hold together"), "it does not hold together"),
        (subprocess.TimeoutExpired("iptables", 30), "Command 'iptables' timed out after 30 seconds"),
    ],
)
def test_what_is_not_there(error: Exception, detail: str) -> None:
    found = probe(raising(error), required=False).run(privileged=True)
    expected = Feature("thing", "for this", required=False, present=False, detail=detail, remedy="buy it")
    assert found == expected


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
@pytest.mark.parametrize("kind", [OSError, KernelError])
def test_a_refusal_without_privileges_says_nothing_of_the_kernel(kind: type[OSError], code: int) -> None:
    found = probe(raising(kind(code, "long words"))).run(privileged=False)
    assert (found.present, found.detail, found.remedy) == (False, os.strerror(code), AS_ROOT)
    assert probe(raising(kind(code, "long words"))).run(privileged=True).remedy == "buy it"


def test_a_lack_that_privileges_would_not_cure() -> None:
    found = probe(raising(OSError(errno.ENOSYS, "Function not implemented"))).run(privileged=False)
    assert (found.detail, found.remedy) == ("Function not implemented", "buy it")


def test_a_bug_of_ours_is_not_a_lack_of_the_kernel() -> None:
    with pytest.raises(TypeError):
        probe(raising(TypeError("a bug"))).run(privileged=True)


def test_every_layer_is_tried_and_has_a_purpose() -> None:
    names = [one.name for one in kernel_features(privileged=False)]
    assert len(names) == len(set(names))
    assert {f"layer: {spec.layer}" for spec in objects.ALL} <= set(names)


@pytest.mark.live
def test_this_kernel_has_all_that_is_required() -> None:
    before = programs_and_maps()
    found = kernel_features(privileged=True)
    assert [one for one in found if one.required and not one.present] == []
    assert all(one.remedy == "" for one in found if one.present)
    assert not list(bpffs.BPFFS.glob("tw_probe*"))
    assert programs_and_maps() <= before


def programs_and_maps() -> set[int]:
    """Descriptors of ours that are eBPF programs or maps."""
    kinds = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            kinds[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return {fd for fd, kind in kinds.items() if "bpf" in kind}


def named(name: str) -> Feature:
    (found,) = [one for one in kernel_features(privileged=True) if one.name == name]
    return found


def test_without_bpffs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused() -> NoReturn:
        raise KernelError(errno.EPERM, "mounting bpffs: Operation not permitted")

    monkeypatch.setattr(bpffs, "ensure", refused)
    found = named("bpffs")
    assert not found.present
    assert found.detail == "mounting bpffs: Operation not permitted"
    assert found.remedy == "mount -t bpf bpf /sys/fs/bpf"


def test_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(features, "_BTF", tmp_path / "vmlinux")
    found = named("BTF")
    assert not found.present
    assert found.detail == f"{tmp_path / 'vmlinux'}: No such file or directory"
    assert "CONFIG_DEBUG_INFO_BTF" in found.remedy


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **options: object) -> NoReturn:
        raise OSError("cannot open shared object file")

    libbpf.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    try:
        found = kernel_features(privileged=True)
    finally:
        monkeypatch.undo()
        libbpf.library.cache_clear()
    assert {one.name for one in found if one.present} <= {"BTF"}
    assert "libbpf.so.1 is not installed" in found[0].detail
    assert found[0].remedy.startswith("apt install libbpf1")


@pytest.mark.live
def test_a_layer_that_the_verifier_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "hold.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("socket") int endless(void *ctx) { for (;;) bpf_ktime_get_ns(); return 0; }\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    asm = f"/usr/include/{os.uname().machine}-linux-gnu"
    output = tmp_path / "hold.bpf.o"
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-idirafter", asm, "-c", source, "-o", output], check=True
    )
    monkeypatch.setattr(objects, "DIRECTORY", tmp_path)
    found = named("layer: hold")
    assert not found.present
    assert "loading the hold layer" in found.detail
    assert "endless" in found.detail
    assert "\n" not in found.detail
    assert "is missing from the package" in named("layer: stream").detail
