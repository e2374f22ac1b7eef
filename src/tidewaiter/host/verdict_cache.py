"""Where the kernel keeps verdicts, and looks for answers: maps `pending` and `flows`, by struct tw_connection.

A socket's own storage cannot be reached from here: what Python answers goes into `pending`, and the gate takes it over.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from tidewaiter.host.policy_maps import set_config
from tidewaiter.kernel import _native, records
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.records import Flag, Home
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.connection import Connection, Tier
from tidewaiter.model.key import HAVE_CONNECTIONS, Protocol
from tidewaiter.model.verdict import Verdict

_BPF_ANY, _BPF_NOEXIST, _BPF_EXIST = 0, 1, 2
_PROTOCOL = records.CONNECTION.offset("protocol")
_TCP, _SOCKET = int(Protocol.TCP), int(Home.SOCKET)  # every held connection comes by here


class VerdictCache:
    """Writes verdicts, reads totals, and clears away. ``data`` is the connection as the kernel told of it last."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pending, self._flows = kernel.map("pending"), kernel.map("flows")

    def write(self, data: bytes, connection: Connection, verdict: Verdict, rules: Mapping[str, int]) -> None:
        """Puts a verdict where the kernel looks for it (portmaster-kext's cached verdict)."""
        rule = rules.get(connection.rule, records.NO_RULE)
        tier = connection.tier or Tier.PYTHON
        if data[_PROTOCOL] == _TCP and data[records.HOME] == _SOCKET:
            # where there is no question any more, the program has given up meanwhile, and its socket is gone
            _native.remember(self._pending.fd, data, rule, verdict, records.TIER_NUMBERS[tier])
            return
        value = records.answered(data, verdict, tier, rule)
        home = data[records.HOME]
        if data[_PROTOCOL] not in HAVE_CONNECTIONS:
            self._answer_packet(data, verdict)
        elif home == Home.SOCKET and not self._is_flow_now(data):
            with suppress(FileNotFoundError):  # the program has given up meanwhile, and its socket is gone
                _native.put(self._pending.fd, data[records.COOKIE], value, _BPF_EXIST)
        else:
            by_peer, by_addresses = _flow_keys(data)
            key = by_addresses if home == Home.ADDRESSES else by_peer
            now = self._flows.get(key)  # what the flow has carried meanwhile stays, and what was seen of it
            if now is not None and all(now[part] == data[part] for part in (records.EPOCH, records.COOKIE)):
                value = records.answered(now, verdict, tier, rule)
            if value != now:  # the same answer again: then nothing is lost that the kernel adds right now
                _native.put(self._flows.fd, key, value, _BPF_ANY)

    def _answer_packet(self, data: bytes, verdict: Verdict) -> None:
        """For one packet, whichever way it goes. What its flow has carried meanwhile stays."""
        for key in _flow_keys(data):
            known = self._flows.get(key)
            if known is not None and all(
                known[part] == data[part] for part in (records.EPOCH, records.COOKIE)
            ):
                self._flows.put(key, records.answered(known, verdict, Tier.PYTHON))

    def renew(self, data: bytes, verdict: Verdict, totals: Totals) -> None:
        """The same for a connection that is decided: its next packet meets this verdict. UNDECIDED: it is asked about.

        A socket's storage takes it over in a pass over all of them, unless the gate has found it in `pending` before.
        """
        for key in _flow_keys(data):
            flow = self._flows.get(key)
            if flow is not None:
                self._flows.put(key, self._now(flow, verdict))
        cookie = data[records.COOKIE]
        live = next((found for found in totals.read() if found[records.COOKIE] == cookie), None)
        if live is None:
            return
        asked = self._pending.get(cookie)
        if asked is not None and asked[records.OPENED] == live[records.OPENED]:
            # the question knows more than the socket: that it was told, and its ends. With it goes how the socket ends
            with suppress(FileNotFoundError):
                _native.put(self._pending.fd, cookie, self._now(asked, verdict), _BPF_EXIST)
        else:
            asked = None
            self._pending.put(cookie, self._now(live, verdict))
        set_config(self._kernel, renew=int.from_bytes(cookie, "little"))
        if all(found[records.COOKIE] != cookie for found in list(totals.read())) and asked is None:
            self._pending.delete(cookie)  # closed meanwhile
        set_config(self._kernel, renew=0)

    def keep(self, data: bytes, verdict: Verdict) -> None:
        """What a connected datagram socket may go on with under a new policy: its next datagram finds the answer.

        A question that is there already stays, and where there is no room the datagram brings one.
        """
        with suppress(OSError):
            _native.put(self._pending.fd, data[records.COOKIE], self._now(data, verdict), _BPF_NOEXIST)

    def _now(self, data: bytes, verdict: Verdict) -> bytes:
        config = self._kernel.map("config").read(value=0) or {}
        return records.of_epoch(records.answered(data, verdict, Tier.PYTHON), int(config["epoch"]))

    def total(self, data: bytes) -> tuple[int, int]:
        """What a datagram flow has sent and received so far, payload bytes."""
        for key in _flow_keys(data):
            value = self._flows.get(key)
            if value is not None:
                record = records.unpack(value)
                return record.sent, record.received
        return 0, 0

    def ends_by_itself(self, data: bytes) -> bool:
        """Whether the kernel tells of the end of a forwarded flow, as of all that pass; or has told, if its ends are
        another's by now.
        """
        flow = self._flows.get(records.key_by_addresses(data[records.FLOW]))
        if flow is None:
            return False
        return flow[records.COOKIE] != data[records.COOKIE] or Verdict(flow[records.VERDICT]).passes

    def forget(self, data: bytes) -> None:
        """Clears away what the kernel keeps of a flow that is over."""
        if data[records.CLOSING]:
            return  # it ended of itself, and its verdict is for what may still come of it
        for key in _flow_keys(data):
            if data[_PROTOCOL] not in HAVE_CONNECTIONS:
                known = self._flows.get(key)
                if known is not None and known[records.COOKIE] != data[records.COOKIE]:
                    continue  # another socket's, with the same ends
            self._flows.delete(key)
        self.forget_question(data)

    def forget_question(self, data: bytes) -> None:
        """The same for the question alone."""
        if data[records.HOME] == Home.RELEASED:  # the kernel has left its question to us
            self._pending.delete(data[records.COOKIE])

    def _is_flow_now(self, data: bytes) -> bool:
        """Whether a datagram socket has turned to other peers since it asked about its first."""
        if data[_PROTOCOL] != Protocol.UDP:
            return False
        asked = self._pending.get(data[records.COOKIE])
        if asked is None:  # closed since
            return self._flows.get(records.key_by_peer(records.unpack(data))) is not None
        return bool(asked[records.FLAGS] & Flag.MARKER)


def _flow_keys(data: bytes) -> tuple[bytes, bytes]:
    """Under which keys a datagram flow may be: by its socket's peer, and by its addresses."""
    return records.key_by_peer(records.unpack(data)), records.key_by_addresses(data[records.FLOW])
