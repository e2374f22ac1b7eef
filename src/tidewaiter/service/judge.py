"""What decides a connection: the policy, the Python functions that it names, and yours."""

from __future__ import annotations

import logging

from tidewaiter.model.connection import Connection
from tidewaiter.model.key import Direction
from tidewaiter.model.packet import MalformedPacket, parse_packet
from tidewaiter.model.verdict import Verdict
from tidewaiter.names.live import Wait
from tidewaiter.policy.dimensions import OF_NAMES
from tidewaiter.policy.rule import Answer, Decision
from tidewaiter.policy.tables import needs_python
from tidewaiter.service.functions import PERMANENT, Function, call, functions_of
from tidewaiter.service.naming import Naming
from tidewaiter.service.rules import Rules

log = logging.getLogger("tidewaiter")

NO_REDIRECT = "this firewall redirects nothing: make it with redirect=RedirectPorts()"


FIRST_BYTES = "first bytes"
"""What stands for a rule while packets have to show what it needs: a name in what a program says first, or the way."""

_NOTHING: frozenset[str] = frozenset()
_HOST, _INTERFACE = frozenset(("host",)), frozenset(("interface",))


class Judge:
    """Called with a connection and a packet of it that is held, it returns a verdict, or None where somebody has to be
    asked.

    Where a rule needs the connection's name, and that is not certain yet, the packets of the handshake pass one by one
    (ACCEPT), and the first data goes on waiting (UNDECIDED): `Naming`. Where a rule needs the interface, a packet that
    comes back passes by itself too: the next one of ours says which way it goes. ``otherwise`` is the verdict when
    something fails. ``decide`` is your function, None for none. ``redirects`` says whether verdicts that redirect are
    possible.
    """

    def __init__(
        self,
        rules: Rules,
        decide: Function | None,
        *,
        otherwise: Verdict,
        redirects: bool,
        naming: Naming | None = None,
    ) -> None:
        """Raises PolicyError for a function that cannot be had."""
        self._decide, self._otherwise, self._redirects = decide, otherwise, redirects
        self._naming = naming or Naming()
        self.use(rules)

    def use(self, rules: Rules) -> None:
        """Decides by these rules from now on. Raises PolicyError, and then by the old ones."""
        functions = functions_of(rules.policy)
        rules.enter()
        self.rules, self._functions = rules, functions
        ask = Answer.ASK
        asking = [rule for rule in rules.policy.rules if rule.answer is ask]
        # nothing is left to find out where the kernel has found one of these to be the first match
        self._questions = {rule.name for rule in asking if needs_python(rule) == ("verdict ask",)}
        self.by_name = bool(rules.dimensions & OF_NAMES)
        self.by_interface = "interface" in rules.dimensions

    def decision(self, connection: Connection) -> Decision:
        """What the policy says of a connection that is open, by what is known now."""
        if self.by_name:
            self._naming.call(connection)
        return self.rules.decide_open(connection)

    def __call__(self, connection: Connection, payload: bytes) -> Verdict | None:
        """What the policy, or else your function, says at once."""
        try:
            return self._judge(connection, payload)
        except Exception:  # also what looks facts up: a broken file must not end the loop
            log.exception("deciding about %s failed: it is treated as if nobody had answered", connection.key)
            return self._otherwise

    def _judge(self, connection: Connection, payload: bytes) -> Verdict | None:
        wait = None
        if self.by_name:
            wait = self._naming.look(connection, payload)
        else:
            self._naming.call(connection)
        if connection.rule not in self._questions:  # else the kernel has found the rule already
            pending = _HOST if wait else _NOTHING
            if self.by_interface and _comes_back(connection, payload):
                pending |= _INTERFACE
            decision = self.rules.decide(connection, pending)
            if pending and decision.missing:
                connection.rule = FIRST_BYTES
                return Verdict.UNDECIDED if wait is Wait.MORE else Verdict.ACCEPT
            connection.rule = decision.rule or "default"
            if decision.function:
                verdict = call(self._functions[decision.function], connection, self._otherwise)
                if verdict is not None:
                    return self._allowed(verdict)
            elif decision.answer is not Answer.ASK:
                return self._allowed(PERMANENT[decision.answer])
        if self._decide is None:
            return None
        verdict = self._decide(connection)
        if verdict is not None and verdict.redirects and not self._redirects:
            raise ValueError(NO_REDIRECT)
        return verdict

    def _allowed(self, verdict: Verdict) -> Verdict:
        """A verdict of the policy; what cannot be redirected is treated as if nobody had answered."""
        if verdict.redirects and not self._redirects:
            log.error("a rule redirects: %s", NO_REDIRECT)
            return self._otherwise
        return verdict


def _comes_back(connection: Connection, payload: bytes) -> bool:
    """Whether a packet goes against the direction of its connection, and so perhaps by another way."""
    try:
        packet = parse_packet(payload)
    except MalformedPacket:
        return False
    key = connection.key
    from_there = (packet.source, packet.source_port) == (key.remote, key.remote_port)
    return from_there is not (connection.direction is Direction.IN)
