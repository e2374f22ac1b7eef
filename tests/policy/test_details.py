"""What is known of a program: scripts, packaged applications, and what is looked up only when it is asked for."""

from __future__ import annotations

import pytest

from tidewaiter.model.process import Process
from tidewaiter.policy.details import NOTHING, OfProcess, app_of


@pytest.mark.parametrize(
    ("path", "cgroup", "image", "app"),
    [
        ("/snap/firefox/1234/usr/lib/firefox", "", "", "snap:firefox"),
        ("/usr/bin/x", "/user.slice/snap.spotify.spotify-1-2.scope", "", "snap:spotify"),
        (
            "/app/bin/x",
            "/user.slice/app-flatpak-org.mozilla.firefox-4711.scope",
            "",
            "flatpak:org.mozilla.firefox",
        ),
        ("/var/lib/flatpak/app/org.x.Y/current/x", "", "", "flatpak:org.x.Y"),
        ("/tmp/.mount_NextclAb12Cd/usr/bin/x", "", "", "appimage:Nextcl"),
        ("/tmp/.mount_NextclAb12Cd/usr/bin/x", "", "/home/a/Nextcloud.AppImage", "appimage:Nextcloud"),
        ("/usr/bin/curl", "/system.slice/x.service", "", ""),
    ],
)
def test_apps(path: str, cgroup: str, image: str, app: str) -> None:
    assert app_of(path, cgroup, image) == app


class Lookup:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ancestors(self, process: Process, /) -> tuple[str, ...]:
        self.asked.append("ancestors")
        return (f"/of/{process.pid}",)

    def environment(self, _process: Process, /) -> tuple[str, ...]:
        self.asked.append("environment")
        return ("A=b", "APPIMAGE=/x/Krita.appimage")

    def checksum(self, _process: Process, algorithm: str, /) -> str:
        self.asked.append(algorithm)
        return algorithm

    def package(self, _process: Process, /) -> str:
        self.asked.append("package")
        return "krita"


def test_what_needs_the_machine_is_asked_when_it_is_needed() -> None:
    lookup = Lookup()
    group = "/system.slice/a.service/" + "c" * 64
    process = Process(7, "/tmp/.mount_kritaAb12Cd/krita", ("krita",), 1000, 100, cgroup=group)
    details = OfProcess(process, lookup)
    assert (details.pid, details.gid, details.arguments, details.unit, details.container, details.script) == (
        7, 100, ("krita",), "a.service", "c" * 64, "",
    )  # fmt: skip
    assert lookup.asked == []
    assert (details.sha256, details.md5, details.package, details.ancestors) == (
        "sha256",
        "md5",
        "krita",
        ("/of/7",),
    )
    assert details.app == "appimage:Krita"
    assert lookup.asked == ["sha256", "md5", "package", "ancestors", "environment"]
    blind = OfProcess(process)
    assert (blind.sha256, blind.package, blind.ancestors, blind.environment) == ("", "", (), ())
    assert NOTHING.pid == 0
