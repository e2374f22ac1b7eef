"""What a service manager and a service tell each other: the socket that it has opened for us, and that we are ready.

Both are a few environment variables (sd_listen_fds(3), sd_notify(3)); other managers than systemd use them too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from tidewaiter.service.device import DeviceError

_FIRST = 3  # SD_LISTEN_FDS_START


def passed_socket(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The listening Unix socket that the service manager has opened for this process, or None.

    It is handed out once: the variables are taken away, so that no program that we start takes it for its own. Raises
    DeviceError for anything but one listening stream socket with a path.
    """
    mine = environment.get("LISTEN_PID") == str(os.getpid())
    count = environment.get("LISTEN_FDS", "") if mine else ""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if not mine:
        return None
    if count != "1":
        raise DeviceError(f"the service manager has passed {count or 'no'} sockets, and the device is one")
    os.set_inheritable(_FIRST, False)
    found = socket.socket(fileno=_FIRST)
    kind = found.family, found.type
    if kind != (socket.AF_UNIX, socket.SOCK_STREAM) or not _listens(found) or not path_of(found).name:
        found.detach()
        raise DeviceError(
            "the service manager has passed what is no listening Unix stream socket with a path"
        )
    found.setblocking(False)
    return found


def path_of(listening: socket.socket) -> Path:
    """Where a Unix socket is bound; ``.`` for one without a path."""
    name = listening.getsockname()
    return Path(name if isinstance(name, str) else "")


def notify(*lines: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Tells the service manager, if there is one, lines like ``READY=1`` and ``STATUS=…``."""
    place = environment.get("NOTIFY_SOCKET", "")
    if not place:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.connect(address)
            manager.send("\n".join(lines).encode())
        except OSError:
            return  # it has gone: there is nobody to tell


def _listens(given: socket.socket) -> bool:
    return bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
