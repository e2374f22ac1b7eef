"""kernel/objects.py: which objects there are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tidewaiter.kernel import objects
from tidewaiter.kernel.objects import Mode, ObjectSpec


def test_an_object_with_variants_has_one_for_each_mode() -> None:
    connect = ObjectSpec("connect", variants=True)
    assert {connect.path(mode).name for mode in Mode} == {"connect.observe.bpf.o", "connect.enforce.bpf.o"}
    assert {ObjectSpec("bind").path(mode).name for mode in Mode} == {"bind.bpf.o"}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("spec", objects.ALL, ids=lambda spec: spec.layer)
def test_every_object_was_built(spec: ObjectSpec, mode: Mode) -> None:
    assert spec.path(mode).read_bytes()[:4] == b"\x7fELF"


def test_every_source_is_an_object_with_the_variants_that_it_names() -> None:
    named = {
        source.name.removesuffix(".bpf.c"): bool(re.search(r"^/\* build: ", source.read_text(), re.MULTILINE))
        for source in objects.DIRECTORY.glob("*.bpf.c")
    }
    assert {spec.layer: spec.variants for spec in objects.ALL} == named


def test_the_gate_stands_before_a_connection_can_begin() -> None:
    layers = [spec.layer for spec in objects.CGROUP_OBJECTS]
    assert layers.index("packet") < layers.index("datagram") < layers.index("connect")


def test_the_digest_changes_with_any_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in objects.DIRECTORY.glob("*.bpf.o"):
        shutil.copy(path, tmp_path)
    before = objects.build_digest()
    monkeypatch.setattr(objects, "DIRECTORY", tmp_path)
    assert objects.build_digest() == before
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    seen = {before}
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes() + b"\0")
        seen.add(objects.build_digest())
    assert len(seen) == 1 + len(list(tmp_path.iterdir()))
