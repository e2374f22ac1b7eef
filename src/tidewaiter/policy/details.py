"""What else is known of a program than its path and its user: as it was told, or looked up when a rule asks for it.

Scripts and packaged applications are told from paths, arguments and control groups alone. What needs a look at the disk
(checksums, packages, the paths of ancestors) is asked of a `Lookup`, which the live machine brings along.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from tidewaiter.model.process import Process
from tidewaiter.policy.scripts import script_of

_SNAP = re.compile(r"^/(?:var/lib/snapd/)?snap/(?P<name>[^/]+)/")
_SNAP_GROUP = re.compile(r"/snap\.(?P<name>[^./]+)\.")
_FLATPAK = re.compile(r"^/var/lib/flatpak/app/(?P<name>[^/]+)/|/\.local/share/flatpak/app/(?P<other>[^/]+)/")
_FLATPAK_GROUP = re.compile(r"/app-flatpak-(?P<name>.+?)-[0-9]+\.scope")
_APPIMAGE = re.compile(r"^/[^ ]*/\.mount_(?P<name>.+)[A-Za-z0-9]{6}/")


class Details(Protocol):
    """What may be known of a program. What is not known is "", () or a number below 0 (``pid``: 0)."""

    @property
    def gid(self) -> int:
        """The process's group."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Its command line."""

    @property
    def ancestors(self) -> tuple[str, ...]:
        """The executables of its ancestors, nearest first."""

    @property
    def environment(self) -> tuple[str, ...]:
        """Its environment: ``VARIABLE=value``."""

    @property
    def sha256(self) -> str:
        """Of the executable, in hexadecimal."""

    @property
    def sha1(self) -> str:
        """The same."""

    @property
    def md5(self) -> str:
        """The same."""

    @property
    def package(self) -> str:
        """The distribution's package that owns the executable."""

    @property
    def script(self) -> str:
        """What an interpreter runs."""

    @property
    def app(self) -> str:
        """``snap:NAME``, ``flatpak:ID`` or ``appimage:NAME``."""

    @property
    def unit(self) -> str:
        """The systemd unit."""

    @property
    def cgroup(self) -> str:
        """The control group, from the root of the hierarchy."""

    @property
    def container(self) -> str:
        """The container's id."""


@dataclass(frozen=True, slots=True)
class Told:
    """Details as they were told."""

    gid: int = -1
    pid: int = 0
    arguments: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    sha256: str = ""
    sha1: str = ""
    md5: str = ""
    package: str = ""
    script: str = ""
    app: str = ""
    unit: str = ""
    cgroup: str = ""
    container: str = ""


NOTHING = Told()
"""Nothing is known."""


class Lookup(Protocol):
    """Finds out on the live machine what a process record does not hold. "" or () for what cannot be found."""

    def ancestors(self, process: Process, /) -> tuple[str, ...]:
        """The executables of its ancestors, nearest first."""

    def environment(self, process: Process, /) -> tuple[str, ...]:
        """``VARIABLE=value``."""

    def checksum(self, process: Process, algorithm: str, /) -> str:
        """Of its executable, by ``sha256``, ``sha1`` or ``md5``, in hexadecimal."""

    def package(self, process: Process, /) -> str:
        """The package that owns its executable."""


class _Blind:
    """Looks nothing up: for captures, and where nobody has said how."""

    def ancestors(self, _process: Process, /) -> tuple[str, ...]:
        return ()

    environment = ancestors

    def checksum(self, _process: Process, _algorithm: str, /) -> str:
        return ""

    def package(self, _process: Process, /) -> str:
        return ""


BLIND: Lookup = _Blind()


class OfProcess:
    """The details of a process, each found when it is asked for: a policy that has no rule about it pays nothing."""

    __slots__ = ("_lookup", "_process")

    def __init__(self, process: Process, lookup: Lookup = BLIND) -> None:
        self._process, self._lookup = process, lookup

    gid = property(lambda self: self._process.gid)
    pid = property(lambda self: self._process.pid)
    arguments = property(lambda self: self._process.arguments)
    unit = property(lambda self: self._process.unit)
    cgroup = property(lambda self: self._process.cgroup)
    container = property(lambda self: self._process.container)
    ancestors = property(lambda self: self._lookup.ancestors(self._process))
    environment = property(lambda self: self._lookup.environment(self._process))
    sha256 = property(lambda self: self._lookup.checksum(self._process, "sha256"))
    sha1 = property(lambda self: self._lookup.checksum(self._process, "sha1"))
    md5 = property(lambda self: self._lookup.checksum(self._process, "md5"))
    package = property(lambda self: self._lookup.package(self._process))
    script = property(lambda self: script_of(self._process.path, self._process.arguments))

    @property
    def app(self) -> str:
        """``snap:NAME``, ``flatpak:ID`` or ``appimage:NAME``."""
        process = self._process
        if _APPIMAGE.match(process.path):
            for variable in self.environment:
                if variable.startswith("APPIMAGE="):
                    return app_of(process.path, process.cgroup, variable.removeprefix("APPIMAGE="))
        return app_of(process.path, process.cgroup)


def app_of(path: str, cgroup: str, image: str = "") -> str:
    """The stable name of an application whose path changes with each version or start, or "".

    ``image`` is the file of an AppImage (its variable APPIMAGE). Without it, the mount point tells the first letters.
    """
    for pattern, text, kind in (
        (_SNAP, path, "snap"),
        (_SNAP_GROUP, cgroup, "snap"),
        (_FLATPAK, path, "flatpak"),
        (_FLATPAK_GROUP, cgroup, "flatpak"),
        (_APPIMAGE, path, "appimage"),
    ):
        match = pattern.search(text)
        if match:
            name = next(filter(None, match.groups()))
            if kind == "appimage" and image:
                name = image.rpartition("/")[2]
                name = name[: -len(".AppImage")] if name.lower().endswith(".appimage") else name
            return f"{kind}:{name}"
    return ""
