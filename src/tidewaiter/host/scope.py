"""What a firewall guards: a control group (whose programs) and network namespaces (where packets are held)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from tidewaiter.host import cgroup
from tidewaiter.host import namespace as network_namespace

OWN_NAMESPACE = Path("/proc/self/ns/net")


@dataclass(frozen=True, slots=True)
class Scope:
    """Programs in ``cgroup`` and below, in each of ``namespaces``; traffic elsewhere is left alone."""

    cgroup: Path
    namespaces: tuple[Path, ...]

    @classmethod
    def host(cls) -> Scope:
        """Every program of this host, in its own network namespace."""
        return cls(cgroup.root(), (OWN_NAMESPACE,))

    @classmethod
    def of(cls, group: Path | None = None, namespace: Path | None = None) -> Scope:
        """One control group, one network namespace, or both. Raises FileNotFoundError for what is none."""
        group = group or cgroup.root()
        where = namespace or OWN_NAMESPACE
        if not (group / "cgroup.procs").exists():
            raise FileNotFoundError(f"{group} is no control group; see {cgroup.root()}")
        if not _is_namespace(where):
            raise FileNotFoundError(f"{where} is no network namespace; see `ip netns list`")
        return cls(group, (where,))

    def __str__(self) -> str:
        places = ", ".join(str(path) for path in self.namespaces if path != OWN_NAMESPACE)
        whose = "every program" if self.cgroup == cgroup.root() else f"programs in {self.cgroup}"
        return whose + (f" in {places}" if places else "")


def _is_namespace(path: Path) -> bool:
    try:
        network_namespace.cookie(path)
    except OSError as error:
        return error.errno == errno.EPERM  # whoever may not enter it hears so later
    return True
