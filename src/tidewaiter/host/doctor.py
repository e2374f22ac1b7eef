"""What this machine has and lacks: the kernel's features, the privileges of this process, the programs.

Everything is tried: in a control group and a network namespace that are made for it, hold nobody else's
processes or packets, and are gone afterwards.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from tidewaiter.host import cgroup, hold, namespace, privileges
from tidewaiter.host.diag import OpenSocket, destroy, open_sockets
from tidewaiter.host.hold import HoldRules, Method
from tidewaiter.host.queue import Queue
from tidewaiter.host.refusal import Refuser
from tidewaiter.kernel import bpffs, features
from tidewaiter.kernel.features import Feature, Probe
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.objects import Mode
from tidewaiter.kernel.totals import Totals

_QUEUE = 7399  # any number: a namespace of its own has queues of its own
_USUAL = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))  # not on every user's PATH

_PROGRAMS = {
    "iptables-nft": ("hold rules, the first way", "iptables"),
    "iptables-legacy": ("hold rules, the second way", "iptables"),
    "nft": ("hold rules, the third way", "nftables"),
    "ip": ("the lab's network", "iproute2"),
    "nsenter": ("to look into the lab from outside", "util-linux"),
    "clang": ("builds the eBPF programs; not needed to run", "clang"),
}


def examine() -> dict[str, list[Feature]]:
    """Everything there is to know, by ``kernel``, ``privileges`` and ``programs``. Takes a few seconds."""
    privileged = not privileges.missing_privileges()
    return {
        "kernel": [
            *features.kernel_features(privileged=privileged),
            *machine_features(privileged=privileged),
        ],
        "privileges": privilege_features(privileges.effective_capabilities()),
        "programs": program_features(),
    }


def complete(found: dict[str, list[Feature]]) -> bool:
    """Whether everything that is required is there."""
    return all(one.present for group in found.values() for one in group if one.required)


def machine_features(*, privileged: bool) -> list[Feature]:
    """What needs a place to be tried in."""
    with ExitStack() as stack:
        trial = _Trial(stack)
        found = list(features.run(trial.probes(), privileged=privileged))
        holds = [trial.hold_probe(method).run(privileged=privileged) for method in Method]
        return [*found, *holds, _any_hold(holds, privileged=privileged)]


def privilege_features(effective: int) -> list[Feature]:
    """The capabilities that matter, given those that are in effect, as bits."""
    return [
        Feature(
            name,
            privileges.PURPOSES[name],
            required=name in privileges.NEEDED,
            present=bool(effective >> bit & 1),
            remedy="" if effective >> bit & 1 else features.AS_ROOT,
        )
        for name, bit in (privileges.NEEDED | privileges.USEFUL).items()
    ]


def program_features() -> list[Feature]:
    """Programs that we call or that are at hand with us; none is required by itself."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), _USUAL))
    found = []
    for name, (purpose, package) in _PROGRAMS.items():
        path = shutil.which(name, path=search)
        remedy = "" if path else f"apt install {package}"
        found.append(
            Feature(name, purpose, required=False, present=path is not None, detail=path or "", remedy=remedy)
        )
    return found


def _any_hold(holds: list[Feature], *, privileged: bool) -> Feature:
    ways = [one.name.removeprefix("hold by ") for one in holds if one.present]
    install = "apt install iptables; the kernel needs xt_bpf and xt_NFQUEUE"
    return Feature(
        "hold rules",
        "make a packet wait until it is decided",
        required=True,
        present=bool(ways),
        detail=f"by {', '.join(ways)}" if ways else "none of the three ways works",
        remedy="" if ways else install if privileged else features.AS_ROOT,
    )


class _Trial:
    """Where to try: each part is made when it is first asked for, and removed at the end of ``stack``.

    A part that cannot be made raises, for each feature that needs it, why.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._name = f"tidewaiter-doctor-{os.getpid()}"

    @cached_property
    def group(self) -> Path:
        path = cgroup.create(self._name)
        self._stack.callback(cgroup.remove, path)
        return path

    @cached_property
    def network(self) -> Path:
        path = namespace.create(self._name)
        self._stack.callback(namespace.delete, self._name)
        return path

    @cached_property
    def kernel(self) -> Kernel:
        kernel = Kernel.load(bpffs.BPFFS / self._name, Mode.ENFORCE)
        self._stack.callback(kernel.remove)
        return kernel

    def probes(self) -> tuple[Probe, ...]:
        """The features that need a place, but no rules."""
        newer = "use a newer kernel"
        return (
            Probe("cgroup v2", "whom to guard", "mount -t cgroup2 none /sys/fs/cgroup", self._cgroup),
            Probe(
                "attaching", "puts the programs in force", "use a kernel with CONFIG_CGROUP_BPF", self._attach
            ),
            Probe("totals iterator", "reads the bytes of open connections", newer, self._iterate),
            Probe(
                "network namespace",
                "keeps containers apart; the lab",
                "use a kernel with CONFIG_NET_NS",
                self._enter,
            ),
            Probe("netns cookie", "tells namespaces apart", f"{newer} (5.14 or later)", self._cookie),
            Probe(
                "NFQUEUE",
                "where packets wait",
                "use a kernel with CONFIG_NETFILTER_NETLINK_QUEUE",
                self._queue,
            ),
            Probe("raw sockets", "answer blocked packets", "run with CAP_NET_RAW", self._refuse),
            Probe("sock_diag", "sockets that were open before us", "modprobe tcp_diag udp_diag", self._list),
            Probe(
                "SOCK_DESTROY",
                "cuts open connections that are refused",
                "use a kernel with CONFIG_INET_DIAG_DESTROY",
                self._destroy,
                required=False,
            ),
        )

    def hold_probe(self, method: Method) -> Probe:
        """Whether hold rules can be installed in one of the ways."""

        def attempt() -> str:
            rules = HoldRules(self.network, *self._pins, queue=_QUEUE, fail_open=True)
            hold.put_back(rules, method)
            return ""

        remedy = "nothing to do if another way works"
        return Probe(f"hold by {method}", "one way to hold packets", remedy, attempt, required=False)

    @cached_property
    def _pins(self) -> tuple[Path, Path]:
        return self.kernel.pin_hold(1)

    def _cgroup(self) -> str:
        return str(cgroup.root())

    def _attach(self) -> str:
        self.kernel.attach(self.group)
        return ""

    def _iterate(self) -> str:
        totals = Totals(self.kernel)
        try:
            for _ in totals.read():
                pass
        finally:
            totals.close()
        return ""

    def _enter(self) -> str:
        namespace.run_inside(self.network, lambda: None)
        return ""

    def _cookie(self) -> str:
        namespace.cookie(self.network)
        return ""

    def _queue(self) -> str:
        Queue(self.network, 1, _QUEUE).close()
        return ""

    def _refuse(self) -> str:
        Refuser(self.network).close()
        return ""

    def _list(self) -> str:
        with self._socket() as waiting:
            self._found(waiting)
        return ""

    def _destroy(self) -> str:
        with self._socket() as waiting:
            if not destroy(self._found(waiting), self.network):
                raise RuntimeError("the kernel does not find a socket that it has just listed")
        return ""

    def _socket(self) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("127.0.0.1", 0))
            return made

        return namespace.run_inside(self.network, make)

    def _found(self, waiting: socket.socket) -> OpenSocket:
        port = waiting.getsockname()[1]
        for item in open_sockets(self.network):
            if item.local_port == port:
                return item
        raise RuntimeError("the kernel does not list a socket that is open")
