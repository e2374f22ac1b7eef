"""kernel/loader.py on the live kernel: what it leaves, what it takes over, what it says when it cannot."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livelab import PROGRAM_OF_OTHERS, attach_foreign, compile_bpf, loaded, new_pins
from tidewaiter.host import cgroup, state
from tidewaiter.kernel import loader, objects
from tidewaiter.kernel.attached import ATTACH_TYPES
from tidewaiter.kernel.libbpf import KernelError, library
from tidewaiter.kernel.loader import Kernel, LoadedObject
from tidewaiter.kernel.objects import Mode, ObjectSpec

pytestmark = pytest.mark.live


@pytest.fixture
def group() -> Iterator[Path]:
    path = cgroup.create(f"tidewaiter-test-{secrets.token_hex(4)}")
    (path / "child").mkdir()
    yield path
    cgroup.remove(path)


@pytest.fixture
def pins() -> Iterator[Path]:
    path = new_pins()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def bpftool(*arguments: str | Path) -> Any:
    done = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip() or "[]")


def attached_names(group: Path) -> set[str]:
    return {entry["name"] for entry in bpftool("cgroup", "show", group) or []}


def descriptors() -> dict[str, str]:
    """What of eBPF this process holds open."""
    folder = Path("/proc/self/fd")
    links = {entry: str(entry.readlink()) for entry in folder.iterdir() if entry.is_symlink()}
    return {entry.name: link for entry, link in links.items() if "bpf" in link}


@pytest.mark.parametrize("mode", Mode)
def test_loading_attaching_and_removing_leaves_nothing(mode: Mode, group: Path, pins: Path) -> None:
    before = descriptors()
    kernel = Kernel.load(pins, mode)
    assert sorted(path.name for path in pins.iterdir()) == ["hold", "links", "maps"]
    assert {path.name for path in (pins / "maps").iterdir()} == kernel.maps.keys()
    assert {"sockets", "pending", "flows", "config", "events", "counters"} <= kernel.maps.keys()
    assert attached_names(group) == set()
    kernel.attach(group)
    assert {path.name for path in (pins / "links").iterdir()} == ATTACH_TYPES.keys()
    assert len(attached_names(group)) == len(ATTACH_TYPES)
    kernel.detach()
    assert attached_names(group) == set()
    kernel.remove()
    assert not pins.exists()
    assert descriptors() == before


def test_pinned_links_outlive_the_handles(group: Path, pins: Path) -> None:
    kernel = Kernel.load(pins, Mode.ENFORCE)
    kernel.attach(group)
    kernel.close()
    assert len(attached_names(group)) == len(ATTACH_TYPES)
    again = Kernel.adopt(pins, Mode.ENFORCE)
    assert len(attached_names(group)) == len(ATTACH_TYPES)
    again.remove()
    assert attached_names(group) == set()
    assert not pins.exists()


def test_what_is_adopted_is_what_was_there(pins: Path) -> None:
    before = descriptors()
    kernel = Kernel.load(pins, Mode.ENFORCE)
    kernel.map("listeners").write({"namespace": 7, "port": 80, "protocol": 6}, {"cookie": 4711})
    kernel.close()
    again = Kernel.adopt(pins, Mode.ENFORCE)
    assert again.maps.keys() == {path.name for path in (pins / "maps").iterdir()}
    found = again.map("listeners").read(namespace=7, port=80, protocol=6)
    assert found is not None
    assert found["cookie"] == 4711
    again.identify()  # it can still load what shares the maps
    assert again.pin_hold(1)[0].exists()
    again.remove()
    assert descriptors() == before


def test_nothing_to_adopt(pins: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Kernel.adopt(pins, Mode.ENFORCE)


def test_all_objects_share_every_map(pins: Path) -> None:
    kernel = Kernel.load(pins, Mode.ENFORCE)
    numbers = {bpftool("map", "show", "pinned", pins / "maps" / name)["id"] for name in ("config", "pending")}
    for item in kernel._loaded:
        for _, pointer in item.programs():
            fd = library().bpf_program__fd(pointer)
            (info,) = [entry for entry in bpftool("prog", "show") if entry["id"] == program_id(fd)]
            assert numbers & set(info["map_ids"])
    kernel.remove()


def program_id(fd: int) -> int:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)["prog_id"])


def constants_of(pin: Path) -> dict[str, int]:
    """The constants of a pinned program, from its section of them."""
    for number in bpftool("prog", "show", "pinned", pin)["map_ids"]:
        if bpftool("map", "show", "id", str(number))["name"].endswith(".rodata"):
            (entry,) = bpftool("map", "dump", "id", str(number))
            return {
                name: value for each in entry["formatted"]["value"][".rodata"] for name, value in each.items()
            }
    return {}


@pytest.mark.parametrize("namespace", [1, 0x01020304])
def test_a_hold_program_knows_its_namespace(pins: Path, namespace: int) -> None:
    kernel = Kernel.load(pins, Mode.ENFORCE)
    paths = kernel.pin_hold(namespace)
    assert [path.parent for path in paths] == [pins / "hold"] * 2
    assert len(set(paths)) == 2
    assert [constants_of(path)["tw_namespace"] for path in paths] == [namespace] * 2
    kernel.remove()


def test_the_kernel_half_learns_who_we_are() -> None:
    with loaded() as kernel:
        kernel.identify()
        config = kernel.map("config").read(value=0)
        assert config is not None
        assert config["own_pid"] == os.getpid()
        assert config["root"] > 1 << 63  # the address of a dentry in the kernel


def test_who_excludes_us_is_named_and_nothing_stays_attached(group: Path, pins: Path, tmp_path: Path) -> None:
    kernel = Kernel.load(pins, Mode.ENFORCE)
    with attach_foreign(group, tmp_path):
        with pytest.raises(KernelError) as caught:
            kernel.attach(group / "child")
        assert caught.value.errno == errno.EPERM
        said = str(caught.value)
        assert f"attaching tw_connect4 to {group}/child" in said
        assert f"in the way is {PROGRAM_OF_OTHERS}, attached to {group} without letting others in" in said
        kernel.remove()
    assert attached_names(group / "child") == set()


def test_two_firewalls_and_a_polite_stranger_share_a_group(group: Path, pins: Path, tmp_path: Path) -> None:
    other = new_pins()
    with attach_foreign(group, tmp_path, "multi"):
        kernels = [Kernel.load(path, Mode.ENFORCE) for path in (pins, other)]
        for kernel in kernels:
            kernel.attach(group)
        assert len(bpftool("cgroup", "show", group)) == 2 * len(ATTACH_TYPES) + 1
        for kernel in kernels:
            kernel.remove()
        assert attached_names(group) == {PROGRAM_OF_OTHERS}


def test_what_is_no_control_group_is_refused(pins: Path, tmp_path: Path) -> None:
    kernel = Kernel.load(pins, Mode.ENFORCE)
    with pytest.raises(KernelError, match=f"to {tmp_path}: "):
        kernel.attach(tmp_path)
    kernel.remove()
    assert not pins.exists()


def test_a_missing_object_is_said_and_nothing_is_left(
    pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in objects.DIRECTORY.glob("*.bpf.o"):
        shutil.copy(path, tmp_path)
    (tmp_path / "datagram.enforce.bpf.o").unlink()
    monkeypatch.setattr(objects, "DIRECTORY", tmp_path)
    before = descriptors()
    with pytest.raises(KernelError, match=r"datagram\.enforce\.bpf\.o is missing from the package"):
        Kernel.load(pins, Mode.ENFORCE)
    assert not pins.exists()
    assert descriptors() == before


def test_the_verifiers_last_words_are_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_bpf(
        tmp_path / "broken.bpf.o",
        'SEC("cgroup/connect4") int broken(struct bpf_sock_addr *ctx)'
        " { return *(volatile int *)(ctx->user_port + 8L); }",
    )
    monkeypatch.setattr(objects, "DIRECTORY", tmp_path)
    before = descriptors()
    with pytest.raises(KernelError) as caught:
        LoadedObject(ObjectSpec("broken"), Mode.ENFORCE, {}, {})
    said = str(caught.value)
    assert "loading the broken layer" in said
    assert "the verifier's last words: broken: " in said
    assert "invalid mem access" in said
    assert "processed" not in said
    assert len(said) < 1000
    assert descriptors() == before


def test_an_object_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.bpf.o").write_text("no object")
    monkeypatch.setattr(objects, "DIRECTORY", tmp_path)
    with pytest.raises(KernelError, match=r"opening text\.bpf\.o"):
        LoadedObject(ObjectSpec("text"), Mode.ENFORCE, {}, {})


def test_a_program_that_is_not_there_is_said() -> None:
    with loaded() as kernel, pytest.raises(KernelError, match="finding program nobody"):
        kernel._loaded[0].program("nobody")


def test_a_kernel_where_packets_know_no_namespace(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.15: the packet layer is loaded the other way."""
    asked: list[dict[str, int]] = []

    class Old(LoadedObject):
        def __init__(
            self, spec: ObjectSpec, mode: Mode, shared: dict[str, int], constants: dict[str, int]
        ) -> None:
            asked.append(constants)
            if constants.get("tw_packet_has_namespace"):
                raise KernelError(errno.EINVAL, "unknown func")
            super().__init__(spec, mode, shared, constants)

    monkeypatch.setattr(loader, "LoadedObject", Old)
    Kernel.load(pins, Mode.ENFORCE).remove()
    assert [c["tw_packet_has_namespace"] for c in asked if c] == [1, 0]


def test_two_generations_lie_side_by_side(pins: Path) -> None:
    first = Kernel.load(pins / "1", Mode.ENFORCE)
    second = Kernel.load(pins / "2", Mode.ENFORCE)
    first.map("namespaces").put(bytes(8), b"\1\0\0\0")
    assert second.map("namespaces").get(bytes(8)) is None
    first.remove()
    assert (pins / "2" / "maps" / "config").exists()
    second.remove()
    assert state.PINS in pins.parents
