"""How a firewall is to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tidewaiter.host.redirect import RedirectPorts, check_ports
from tidewaiter.host.scope import Scope
from tidewaiter.kernel.objects import Mode
from tidewaiter.model.verdict import Verdict
from tidewaiter.service.judge import NO_REDIRECT


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run. ``timeout`` in seconds: how long a packet waits for an answer before ``on_timeout`` is it.

    ``fail``, "closed" or "open": what happens to what is undecided when we die. ``held`` bounds the packets that wait;
    the oldest gives way. ``count``: whether the payload bytes of connections are counted, else all are 0;
    ``count_every`` in seconds, 0 for never. ``redirect``: where the verdicts that redirect lead to; None: they are not
    allowed, and what has one is dropped. ``state``: the folder for what shall be there again at the next start, which
    is lists; None: nothing is kept. Raises ValueError for what is none of that.
    """

    name: str = "host"
    scope: Scope = field(default_factory=Scope.host)
    mode: Mode = Mode.ENFORCE
    fail: str = "closed"
    timeout: float = 30.0
    on_timeout: Verdict = Verdict.PERMANENT_BLOCK
    held: int = 1024
    count: bool = True
    count_every: float = 0.0
    redirect: RedirectPorts | None = None
    state: Path | None = None

    def __post_init__(self) -> None:
        if self.fail not in ("open", "closed"):
            raise ValueError(f"fail is 'open' or 'closed', not {self.fail!r}")
        if self.redirect is not None:
            check_ports(self.redirect)
        elif self.on_timeout.redirects:
            raise ValueError(NO_REDIRECT)

    @property
    def fail_open(self) -> bool:
        """Whether what is undecided goes on then."""
        return self.fail == "open"
