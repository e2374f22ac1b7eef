"""What stands in the way of the load: one of these runs in a process of its own while the load is measured.

python contenders.py NAME CGROUP NAMESPACE      prints "ready", ends when its standard input does
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tidewaiter import Connection, Firewall, Policy, Scope, Verdict
from tidewaiter.host import namespace
from tidewaiter.service.engine import Engine
from tidewaiter.service.settings import Settings

NAME = f"bench-{os.getpid()}"  # another benchmark may run beside this one

POLICY = """
version = 1
[default]
out = "{default}"
in = "accept"
[[rule]]
name = "web of the office"
program = ["/usr/bin/curl", "/usr/bin/wget"]
port = ["80/tcp", "443/tcp"]
remote = ["10.0.0.0/8", "fd00::/8"]
verdict = "block"
[[rule]]
name = "no mail"
port = ["25/tcp", "465/tcp", "587/tcp"]
verdict = "drop"
"""


def _until_told() -> None:
    print("ready", flush=True)
    sys.stdin.read()


def nothing(_: Scope) -> None:
    """The same world without anything."""
    _until_told()


def kernel(scope: Scope) -> None:
    """T1: a policy with programs, addresses and ports that the kernel evaluates by itself."""
    with Firewall(Policy.parse(POLICY.format(default="accept")), scope=scope, name=NAME):
        _until_told()


def kernel_with_events(scope: Scope) -> None:
    """T1 while somebody listens to every event."""
    with Firewall(
        Policy.parse(POLICY.format(default="accept")), scope=scope, name=NAME, listener=lambda _: None
    ):
        _until_told()


def python(scope: Scope) -> None:
    """T2: a rule says to ask about every connection; each is held, and a function decides with its owner."""
    policy = Policy.parse(POLICY.format(default="accept") + '[[rule]]\nname = "the rest"\nverdict = "ask"\n')
    unwanted = {"/usr/bin/telnet", "/usr/bin/ftp"}

    def decide(connection: Connection) -> Verdict:
        if connection.process.path in unwanted or connection.key.remote_port == 23:
            return Verdict.PERMANENT_BLOCK
        return Verdict.PERMANENT_ACCEPT

    with Firewall(policy, decide=decide, scope=scope, name=NAME):
        _until_told()


def nobody(scope: Scope) -> None:
    """T2 under a flood: nobody answers but for port 5001. What goes to port 5000 is decided by the kernel."""
    policy = Policy.parse(
        'version = 1\n[default]\nout = "ask"\nin = "ask"\n'
        '[[rule]]\nname = "stream"\nport = "5000"\nverdict = "accept"\n'
    )

    def decide(connection: Connection) -> Verdict | None:
        return Verdict.PERMANENT_ACCEPT if connection.key.remote_port == 5001 else None

    engine = Engine(policy, Settings(name=NAME, scope=scope), decide=decide)
    engine.start()
    try:
        _until_told()
    finally:
        engine.stop()


def netfilterqueue(scope: Scope) -> None:
    """NetfilterQueue 1.1.0 (Cython) that accepts every SYN without looking."""
    module = import_module("netfilterqueue")  # installed by ./dev bench alone, and without types
    rule = ["OUTPUT", "-p", "tcp", "--syn", "-j", "NFQUEUE", "--queue-num", "1"]

    def serve() -> None:
        subprocess.run(["iptables-nft", "-t", "mangle", "-I", *rule], check=True)
        queue = module.NetfilterQueue()
        queue.bind(1, lambda packet: packet.accept())
        threading.Thread(target=queue.run, daemon=True).start()
        _until_told()
        subprocess.run(["iptables-nft", "-t", "mangle", "-D", *rule], check=True)

    namespace.run_inside(scope.namespaces[0], serve)


def ruled(count: int, last: str) -> Callable[[Scope], None]:
    """So many rules that look at program, network and port in vain, and then ``last``, if it is not ""."""

    def contend(scope: Scope) -> None:
        policy = "version = 1\n" + "".join(
            f'[[rule]]\nname = "rule {n}"\nprogram = "/usr/lib/vendor{n % 3000}/bin/tool{n % 5000}"\n'
            f'remote = "10.{n >> 8}.{n & 255}.0/24"\nport = "{1000 + n % 5000}/tcp"\nverdict = "block"\n'
            for n in range(count)
        )
        with Firewall(Policy.parse(policy + last), scope=scope, name=NAME):
            _until_told()

    return contend


IN_PYTHON = '[[rule]]\nname = "all"\nprogram = "/**/*"\nverdict = "accept"\n'
"""A pattern, which the kernel does not look at."""

CONTENDERS: dict[str, Callable[[Scope], None]] = {
    "nothing": nothing,
    "kernel": kernel,
    "kernel, events": kernel_with_events,
    "python": python,
    "NetfilterQueue": netfilterqueue,
    "nobody answers": nobody,
    "kernel, 1 rule": ruled(1, ""),
    "kernel, 10,000 rules": ruled(10_000, ""),
    "python, 1 rule": ruled(1, IN_PYTHON),
    "python, 10,000 rules": ruled(10_000, IN_PYTHON),
}

if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](Scope.of(Path(sys.argv[2]), Path(sys.argv[3])))
