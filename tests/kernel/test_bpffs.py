"""kernel/bpffs.py: what is mounted already, and mounting it, in a mount namespace of the test's own."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tidewaiter.kernel import bpffs
from tidewaiter.kernel.libbpf import KernelError

MOUNTS = """\
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
bpf /somewhere/else bpf rw,mode=700 0 0
tmpfs /a/folder tmpfs rw 0 0
"""
TWICE = """
import sys
from pathlib import Path
from tidewaiter.kernel import bpffs
where = Path(sys.argv[1])
found = [bpffs.is_mounted(where)]
for _ in range(2):
    bpffs.ensure(where)
    found.append(bpffs.is_mounted(where))
print(found, Path("/proc/self/mounts").read_text().count(f" {where} bpf "), oct(where.stat().st_mode & 0o777))
"""


def test_whether_it_is_mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(bpffs, "_MOUNTS", mounts)
    assert bpffs.is_mounted(Path("/somewhere/else"))
    assert not bpffs.is_mounted(Path("/a/folder"))
    assert not bpffs.is_mounted()


@pytest.mark.own_mounts
@pytest.mark.live
def test_it_is_mounted_once(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", TWICE, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (said.stdout, said.stderr) == ("[False, True, True] 1 0o700\n", "")


@pytest.mark.live
def test_where_it_cannot_be_mounted(tmp_path: Path) -> None:
    with pytest.raises(
        KernelError, match="mounting bpffs: No such file or directory; as root: mount"
    ) as raised:
        bpffs.ensure(tmp_path / "nowhere")
    assert raised.value.errno == errno.ENOENT
