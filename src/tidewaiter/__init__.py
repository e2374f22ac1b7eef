"""Tidewaiter: an application firewall and packet-interception engine for Linux.

It meets the first packet of every connection in the kernel, knows which program sent it, clears it by a policy
that the kernel itself evaluates or holds it while Python decides, and then stays out of the way. This module is
the face for programmers; the parts below it are drawn in docs/design.md. Names are loaded when they are first
used, so that a part (the wire, say) can be used without the machine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewaiter.driver.core import Asked, Decided, Ended, Established
    from tidewaiter.host.original import original_destination
    from tidewaiter.host.redirect import RedirectPorts
    from tidewaiter.host.scope import Scope
    from tidewaiter.model.connection import Connection, Tier
    from tidewaiter.model.key import ConnectionKey, Direction, Protocol
    from tidewaiter.model.packet_socket import PacketSocket
    from tidewaiter.model.process import Process
    from tidewaiter.model.verdict import Verdict
    from tidewaiter.policy.document import Policy
    from tidewaiter.policy.errors import PolicyError
    from tidewaiter.service.engine import Counted
    from tidewaiter.service.firewall import Firewall, HeldConnection
    from tidewaiter.service.local_device import Device

__version__ = "0.1.0"

__all__ = [
    "Asked",
    "Connection",
    "ConnectionKey",
    "Counted",
    "Decided",
    "Device",
    "Direction",
    "Ended",
    "Established",
    "Firewall",
    "HeldConnection",
    "PacketSocket",
    "Policy",
    "PolicyError",
    "Process",
    "Protocol",
    "RedirectPorts",
    "Scope",
    "Tier",
    "Verdict",
    "original_destination",
]

_HOMES = {
    "tidewaiter.driver.core": ("Asked", "Decided", "Ended", "Established"),
    "tidewaiter.host.original": ("original_destination",),
    "tidewaiter.host.redirect": ("RedirectPorts",),
    "tidewaiter.host.scope": ("Scope",),
    "tidewaiter.model.connection": ("Connection", "Tier"),
    "tidewaiter.model.key": ("ConnectionKey", "Direction", "Protocol"),
    "tidewaiter.model.packet_socket": ("PacketSocket",),
    "tidewaiter.model.process": ("Process",),
    "tidewaiter.model.verdict": ("Verdict",),
    "tidewaiter.policy.document": ("Policy",),
    "tidewaiter.policy.errors": ("PolicyError",),
    "tidewaiter.service.engine": ("Counted",),
    "tidewaiter.service.firewall": ("Firewall", "HeldConnection"),
    "tidewaiter.service.local_device": ("Device",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
