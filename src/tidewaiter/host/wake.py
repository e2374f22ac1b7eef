"""Waking a thread that waits in epoll, from any other thread."""

from __future__ import annotations

import os
import threading


class Wake:
    """An eventfd(2): any thread may `set` it, also when it is closed already, and who waits for it sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """For select and epoll."""
        return self._fd

    def set(self) -> None:
        """Wakes; once more does nothing more."""
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Makes it quiet again. Raises BlockingIOError if it was."""
        os.eventfd_read(self._fd)

    def close(self) -> None:
        """Gives the file descriptor back."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
