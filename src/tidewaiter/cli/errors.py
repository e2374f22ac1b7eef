"""What the parts raise, as one sentence on standard error and an exit status.

Errors are told apart by who must act: the user's configuration (2), this host (1), and a bug of ours, which is not
caught here so that its trace can be reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from tidewaiter.host.hold import HoldError
from tidewaiter.host.queue import QueueError
from tidewaiter.host.state import StateError
from tidewaiter.kernel.btf import BtfError
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.policy.errors import PolicyError
from tidewaiter.service.device import DeviceError

_CONFIGURATION = 2


class Failure(click.ClickException):
    """One sentence and an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc] # click reads it from the instance


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns the errors of the parts into `Failure`."""
    try:
        yield
    except PolicyError as error:
        raise Failure(str(error), _CONFIGURATION) from error
    except (StateError, HoldError, BtfError, DeviceError, FileNotFoundError) as error:
        raise Failure(str(error)) from error
    except (KernelError, QueueError) as error:
        raise Failure(error.strerror or str(error)) from error
    except PermissionError as error:
        raise Failure(f"{error.strerror} ({error.filename or 'this needs root'}); run it as root") from error
