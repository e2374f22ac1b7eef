"""The lab's world: two network namespaces and a cable between them, a control group, and real servers.

The client namespace is where commands run, in the lab's own control group; the server namespace stands for
the internet. Nothing of the machine's own network is touched. The janitor removes all of it at the end.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tidewaiter.host import cgroup, namespace
from tidewaiter.kernel import bpffs
from tidewaiter.lab import plan
from tidewaiter.lab.janitor import Janitor, LabError

__all__ = ["LabError", "World"]

_T = TypeVar("_T")
_Command = Sequence[str | os.PathLike[str]]
_ALSO = {bpffs.BPFFS: "tree", Path("/run/tidewaiter"): "file"}
_RESOLV_CONF = Path("/etc/resolv.conf")
_NSSWITCH_CONF = Path("/etc/nsswitch.conf")
_HOSTS_LINE = re.compile(r"^hosts:.*$", re.MULTILINE)
_PROGRAMS = {"ip": "iproute2", "openssl": "openssl"}  # by the Debian package that brings them
_TRUST = ("LAB_CA", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


class World:
    """A lab that exists between ``__enter__`` and ``__exit__``, and no longer.

    ``cgroup`` is the path of the control group of the client's commands (the servers are in another one),
    ``client_namespace`` and ``server_namespace`` are the paths of the namespaces. Worlds do not see each
    other: any number may exist at once, all with the addresses of ``plan``.
    """

    def __init__(self) -> None:
        """Choose the names; nothing is made yet. Raises FileNotFoundError without cgroup version 2."""
        mark = secrets.token_hex(4)
        self.name = f"tidewaiter-lab-{mark}"
        self.cgroup = cgroup.root() / self.name
        self.client_namespace = namespace.path_of(f"tw-{mark}-client")
        self.server_namespace = namespace.path_of(f"tw-{mark}-server")
        self._server_cgroup = cgroup.root() / f"{self.name}-server"
        self._folder = Path(tempfile.gettempdir()) / self.name
        self._started: weakref.WeakSet[subprocess.Popen[Any]] = weakref.WeakSet()

    def __enter__(self) -> Self:
        """Build it, in less than half a second. Raises LabError when this host cannot have one."""
        _require()
        self._janitor = Janitor()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs in it and remove it. Raises LabError when something would not go."""
        self._remove()

    @property
    def environment(self) -> dict[str, str]:
        """What a command in the lab finds in its environment, besides what it inherits.

        ``LAB_CA`` is the certificate to trust; by the other names OpenSSL, curl and Python's requests do so
        without being told.
        """
        certificate = str(self._folder / plan.CERTIFICATE)
        return plan.environment() | {
            "LAB_CLIENT_NS": str(self.client_namespace),
            "LAB_SERVER_NS": str(self.server_namespace),
            **dict.fromkeys(_TRUST, certificate),
        }

    def popen(self, argv: _Command, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the client namespace and the lab's control group, with the lab's environment.

        ``options`` are those of subprocess.Popen. The command resolves names by the lab's DNS, and sees
        bpffs and the control groups. One that is not there ends with status 127.
        """
        files = {_RESOLV_CONF: self._folder / _RESOLV_CONF.name}
        if _NSSWITCH_CONF.exists():
            files[_NSSWITCH_CONF] = self._folder / _NSSWITCH_CONF.name
        return self._start(argv, self.client_namespace, self.cgroup, options | {"files": files})

    def popen_server(self, argv: _Command, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the server namespace, outside the lab's control group."""
        return self._start(argv, self.server_namespace, self._server_cgroup, options)

    def in_client(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread in the client namespace; its sockets stay there (not in the cgroup)."""
        return namespace.run_inside(self.client_namespace, function)

    def in_server(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread in the server namespace; its sockets stay there."""
        return namespace.run_inside(self.server_namespace, function)

    def also_remove(self, path: Path) -> None:
        """Have a folder of bpffs, or a file of /run, removed with the lab, however it ends.

        It need not be there yet. Raises ValueError for a path that is elsewhere.
        """
        kinds = [kind for place, kind in _ALSO.items() if place in path.parents and ".." not in path.parts]
        if not kinds:
            raise ValueError(f"{path} is not below {' or '.join(map(str, _ALSO))}")
        self._janitor.will_remove(kinds[0], path)

    def _start(
        self, argv: _Command, where: Path, group: Path, options: dict[str, Any]
    ) -> subprocess.Popen[Any]:
        inherited = options.pop("env", os.environ)
        process = namespace.popen(
            argv, namespace=where, cgroup=group, env={**inherited, **self.environment}, **options
        )
        self._started.add(process)
        return process

    def _build(self) -> None:
        for kind, path in (
            ("tree", self._folder),
            ("cgroup", self.cgroup),
            ("cgroup", self._server_cgroup),
            ("namespace", self.client_namespace),
            ("namespace", self.server_namespace),
        ):
            self._janitor.will_remove(kind, path)
        self._folder.mkdir(mode=0o755)
        self.cgroup.mkdir()
        self._server_cgroup.mkdir()
        namespace.create(self.client_namespace.name)
        namespace.create(self.server_namespace.name)
        self._configure_resolver()
        client, server = _cable(self.server_namespace.name)
        self.in_client(lambda: _ip(client))
        self.in_server(lambda: _ip(server))
        self._start_servers()

    def _configure_resolver(self) -> None:
        servers = "".join(f"nameserver {address}\n" for address in plan.DNS)
        (self._folder / _RESOLV_CONF.name).write_text(servers)
        if _NSSWITCH_CONF.exists():  # it may send names to a resolver outside, by a socket
            switch = _HOSTS_LINE.sub("hosts: files dns", _NSSWITCH_CONF.read_text())
            (self._folder / _NSSWITCH_CONF.name).write_text(switch)

    def _start_servers(self) -> None:
        self._servers = self.popen_server(
            [sys.executable, "-P", "-m", "tidewaiter.lab.servers", self._folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        output = self._servers.stdout
        assert output is not None
        with output:
            ready = output.readline().strip()
        if ready != plan.READY:
            status = self._servers.wait()
            raise LabError(f"the lab's servers ended with status {status}: see their message above")

    def _remove(self) -> None:
        self._janitor.finish()
        for process in self._started:
            process.wait()


def _require() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes network namespaces and a control group")
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise LabError(f"the lab needs the command {program}: install the package {package}")
    if importlib.util.find_spec("dns") is None:
        raise LabError("the lab needs the Python package dnspython: pip install tidewaiter[lab]")
    if not _RESOLV_CONF.exists():
        raise LabError(f"the lab needs a file {_RESOLV_CONF} to lay its own over: make an empty one")


def _cable(server: str) -> tuple[list[str], list[str]]:
    """What ip(8) has to do in the client and then in the server namespace, a line each.

    IPv6 addresses are usable at once (nodad), and without link-local ones nothing is sent that no program
    asked for. The client sends everything to the server, which answers for its own addresses only.
    """
    link = plan.LINK
    up = [f"link set {link} addrgenmode none", f"link set {link} up", "link set lo up"]
    gateway = plan.SERVERS[0]
    client = [
        f"link add {link} type veth peer name {link} netns {server}",
        *up,
        *_addresses(plan.CLIENT),
        f"route add default via {gateway.v4}",
        f"route add default via {gateway.v6}",
    ]
    return client, [*up, *(line for place in plan.SERVERS for line in _addresses(place))]


def _addresses(place: plan.Pair) -> list[str]:
    return [
        f"addr add {place.v4}/{plan.PREFIX.v4} dev {plan.LINK}",
        f"addr add {place.v6}/{plan.PREFIX.v6} dev {plan.LINK} nodad",
    ]


def _ip(lines: list[str]) -> None:
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"the lab's network could not be made: {done.stderr.strip().splitlines()[0]}")
