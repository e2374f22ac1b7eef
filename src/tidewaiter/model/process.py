"""The program behind a connection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_UNIT = re.compile(r"(?P<unit>[^/]+\.(?:service|scope|socket|mount|slice))(?=/|$)")
_CONTAINER = re.compile(r"(?P<id>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was when its connection began.

    ``pid`` is the thread group id in the initial namespace; together with ``started`` (nanoseconds
    since boot, task_struct.start_boottime) it names the process for good, since pids are used again.
    ``path`` is the executable as the firewall's own root sees it, or "" when it could not be known;
    ``device`` and ``inode`` are those of the executable file. ``parents`` is the chain of ancestors,
    nearest first, as pids. ``cgroup`` is the path below the cgroup v2 root.
    """

    pid: int
    path: str = ""
    arguments: tuple[str, ...] = ()
    uid: int = -1
    gid: int = -1
    user: str = ""
    started: int = 0
    device: int = 0
    inode: int = 0
    parents: tuple[int, ...] = ()
    cgroup: str = ""
    cgroup_id: int = field(default=0, repr=False)

    @property
    def name(self) -> str:
        """The file name of the executable, or ``pid N`` where the path is not known."""
        return self.path.rpartition("/")[2] or f"pid {self.pid}"

    @property
    def unit(self) -> str:
        """The innermost systemd unit named by the cgroup path, or ""."""
        units = _UNIT.findall(self.cgroup)
        return units[-1] if units else ""

    @property
    def container(self) -> str:
        """The 64-digit container id named by the cgroup path (Docker, Podman, containerd), or ""."""
        ids = _CONTAINER.findall(self.cgroup)
        return ids[-1] if ids else ""


UNKNOWN = Process(pid=0)
"""The owner of a connection whose program could not be found."""
