"""What is known of live connections when they are decided: their records, what is looked up, the time, the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tidewaiter.host.surroundings import Surroundings, Watch
from tidewaiter.model.connection import Connection
from tidewaiter.policy.details import Lookup
from tidewaiter.policy.document import Policy
from tidewaiter.policy.rule import Facts

_INTERFACE = frozenset(("interface",))


class LiveFacts:
    """Makes `Facts`, in one thread.

    ``moved`` is called, in a thread of its own, when the network in ``namespace`` has changed; then `arrive` is to be.
    It is looked after only while some policy names it. ``say`` is told if it cannot be.
    """

    def __init__(
        self,
        lookup: Lookup,
        namespace: Path | None,
        moved: Callable[[], object],
        say: Callable[[str], object],
    ) -> None:
        self._lookup, self._namespace, self._moved, self._say = lookup, namespace, moved, say
        self._watch: Watch | None = None
        self._preparing = threading.Lock()
        self._here = Surroundings()
        self._policy = Policy()
        self._network: tuple[str, ...] = ()
        self._names_network = False
        self.names_interface = False
        """Whether the policy has rules about interfaces."""

    def prepare(self, policy: Policy) -> None:
        """Begins to look after the network if a policy names it, before it comes into force. From any thread."""
        if self._namespace is None or not policy.further & {"network", "interface"}:
            return
        with self._preparing:
            try:
                self._watch = self._watch or Watch(self._namespace, self._moved)
            except (OSError, ValueError) as error:
                self._say(f"Which network this host is in is not known: {error}")

    def use(self, policy: Policy) -> None:
        """This policy comes into force."""
        self._policy = policy
        self._names_network, self.names_interface = (
            name in policy.further for name in ("network", "interface")
        )
        self._look()

    def of(self, connection: Connection, pending: frozenset[str] = frozenset()) -> Facts:
        """The facts of a connection of which a packet waits. Of ``pending`` dimensions more may be known soon."""
        return Facts.of(
            connection, time=time.time(), lookup=self._lookup, network=self._network, pending=pending
        )

    def of_open(self, connection: Connection) -> Facts:
        """The facts of one that is open: by which interface its next packet goes or comes is not known yet."""
        return self.of(connection, _INTERFACE if self.names_interface else frozenset())

    def arrive(self) -> bool:
        """Takes notice of where we are now. Whether what is open has to be decided again."""
        here, network = self._here, self._network
        self._look()
        return (self._names_network and network != self._network) or (
            self.names_interface and here != self._here
        )

    def close(self) -> None:
        """Looks after the network no more."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _look(self) -> None:
        watch = self._watch
        self._here = watch.now if watch is not None else Surroundings()
        self._network = self._policy.network(self._here.interfaces, self._here.gateways, self._here.wifi)
