"""The device: the two streams between the driver and its owner, without any input or output of its own.

Infos are made of the driver's events and read as bytes; commands become actions (docs/reference/wire.md). Bounded: an
info for which there is no room is not sent, and counted; the packet that it was about goes on waiting for its time-out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tidewaiter.driver.core import Action, Asked, Driver, Ended, Event
from tidewaiter.driver.packets import HeldPacket
from tidewaiter.model.connection import Connection
from tidewaiter.model.key import ConnectionKey, Direction, Protocol
from tidewaiter.model.packet import MalformedPacket, parse_packet
from tidewaiter.protocol import command as commands
from tidewaiter.protocol import info as infos
from tidewaiter.protocol.command import Command
from tidewaiter.protocol.info import Severity

ROOM = 4 << 20
"""Bytes of infos that wait for a reader."""

LINES = 1024
"""Log lines that wait for GetLogs; the oldest go first."""

ENDED = 65536
"""Ended connections whose last bytes wait for GetBandwidthStats; those of the oldest go first."""

ENTRIES = 1024
"""Connections that one BandwidthStats tells of, at the most."""

_ASKED_BY_TRANSPORT = (Protocol.TCP, Protocol.UDP)
_GROUPS = [(version, protocol) for protocol in _ASKED_BY_TRANSPORT for version in (4, 6)]


@dataclass(slots=True)
class DeviceStatistics:
    """What did not go as asked. ``infos_lost``: nobody read them in time; ``totals_lost``: nobody asked for them."""

    infos_lost: int = 0
    lines_lost: int = 0
    totals_lost: int = 0
    bad_commands: int = 0


class Device:
    """One driver's device. ``room`` bounds the bytes that wait for a reader."""

    def __init__(self, driver: Driver, *, room: int = ROOM) -> None:
        self._driver, self._room = driver, room
        self._waiting = bytearray()
        self._lines: deque[bytes] = deque(maxlen=LINES)
        self._counted: dict[int, tuple[int, int]] = {}
        self._gone: deque[Connection] = deque()
        self.statistics = DeviceStatistics()

    # --- infos ---------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """An event of the driver. Each packet that is held is an info, and each connection that has ended."""
        if isinstance(event, Asked):
            packet = self._driver.packets.get(event.packet)
            if packet is not None:
                self._send(_connection_info(event.connection, packet, begins=event.first))
        elif isinstance(event, Ended):
            self._gone.append(event.connection)
            if len(self._gone) > ENDED:
                self._counted.pop(self._gone.popleft().id, None)
                self.statistics.totals_lost += 1
            if event.connection.key.local_port:  # else it was refused before it had two ends
                self._send(_end(event.connection))

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of infos, whole or not: the rest comes with the next read. b"" when there are none."""
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken

    def peek(self, size: int) -> bytes:
        """The same bytes as `read` would give, which stay."""
        return bytes(self._waiting[:size])

    @property
    def waiting(self) -> int:
        """How many bytes wait for a reader."""
        return len(self._waiting)

    def forget_reader(self) -> None:
        """The owner has gone, perhaps in the middle of an info: the next one begins at the beginning of one."""
        self._waiting.clear()

    def log(self, severity: Severity, text: str) -> None:
        """A line for the owner, who asks for it by GetLogs."""
        if len(self._lines) == LINES:
            self.statistics.lines_lost += 1
        self._lines.append(infos.encode(infos.LogLine(severity, text)))

    def _send(self, info: infos.Info) -> None:
        data = infos.encode(info)
        if len(self._waiting) + len(data) > self._room:
            self.statistics.infos_lost += 1
            return
        self._waiting += data

    # --- commands ------------------------------------------------------------------------------

    def command(self, command: Command, now: int) -> list[Action]:
        """What follows from a command. Shutdown and ClearCache are the host's: they do nothing here.

        For GetBandwidthStats the totals must have been counted just before.
        """
        match command:
            case commands.VerdictCommand():
                return self._verdict(command, now)
            case commands.Update():
                return self._update(command, now)
            case commands.GetLogs():
                self._send_lines()
            case commands.GetBandwidthStats():
                self._send_bandwidth()
            case commands.PrintMemoryStats():
                for line in self._driver.describe_memory():
                    self.log(Severity.INFO, line)
            case commands.CleanEndedConnections():
                self._driver.clean_ended(now)
        return []

    def bad_command(self, reason: str) -> None:
        """A command that is none: it changes nothing, and the log says why."""
        self.statistics.bad_commands += 1
        self.log(Severity.ERROR, reason)

    def _verdict(self, command: commands.VerdictCommand, now: int) -> list[Action]:
        if self._driver.packets.get(command.id) is None:
            was_given = (
                0 < command.id <= self._driver.packets.newest
            )  # it may have gone while the owner thought
            said = f"No packet is held under id {command.id}: the verdict changes nothing"
            self.log(Severity.INFO if was_given else Severity.ERROR, said)
        return self._driver.verdict(command.id, command.verdict, now)

    def _update(self, command: commands.Update, now: int) -> list[Action]:
        wanted = (
            command.protocol,
            command.local_address,
            command.local_port,
            command.remote_address,
            command.remote_port,
        )
        found = [
            flow
            for flow, connection in self._driver.flows()
            if connection.remembers and _wire_key(connection.key) == wanted
        ]  # one in each namespace
        if not found:
            self.log(Severity.ERROR, "No connection has the key of this update: it changes nothing")
        return [action for flow in found for action in self._driver.update(flow, command.verdict, now)]

    def _send_lines(self) -> None:
        while self._lines and len(self._waiting) + len(self._lines[0]) <= self._room:
            self._waiting += self._lines.popleft()

    def _send_bandwidth(self) -> None:
        """What does not fit into the room stays for the next time."""
        groups: dict[tuple[int, int], list[tuple[Connection, infos.BandwidthEntry]]] = {}
        ended, self._gone = self._gone, deque()
        still_open = [connection for _, connection in self._driver.flows()]
        for connection in [*ended, *still_open]:
            sent, received = self._counted.get(connection.id, (0, 0))
            deltas = connection.sent - sent, connection.received - received
            if any(deltas):
                name = connection.key.version, connection.key.protocol
                groups.setdefault(name, []).append((connection, _entry(connection.key, *deltas)))
        gone = {connection.id for connection in ended}
        for name in _GROUPS:
            told = groups.get(name, [])
            for some in (told[at : at + ENTRIES] for at in range(0, len(told), ENTRIES)):
                data = infos.encode(infos.BandwidthStats(*name, tuple(entry for _, entry in some)))
                if len(self._waiting) + len(data) > self._room:
                    self._gone.extend(connection for connection, _ in some if connection.id in gone)
                    continue
                self._waiting += data
                self._counted.update((one.id, (one.sent, one.received)) for one, _ in some)
        # of these alone: what was forgotten without an end would stay for good
        left = {one.id for one in (*still_open, *self._gone)}
        self._counted = {number: totals for number, totals in self._counted.items() if number in left}


def _wire_direction(direction: Direction) -> int:
    """What is forwarded goes out, for whoever knows two directions only."""
    return int(direction is Direction.IN)


def _wire_key(key: ConnectionKey) -> tuple[int, bytes, int, bytes, int]:
    return key.protocol, key.local.packed, key.local_port, key.remote.packed, key.remote_port


def _connection_info(connection: Connection, held: HeldPacket, *, begins: bool) -> infos.ConnectionInfo:
    """What a program begins is asked about by its transport (as ALE does), every other packet whole (the packet layer).

    Direction is that of the connection; where there is none, of the packet.
    """
    key, direction = connection.key, _wire_direction(connection.direction)
    payload, layer = held.payload, infos.PayloadLayer.NETWORK
    try:
        packet = parse_packet(payload)
    except MalformedPacket:  # the kernel held it, so this is for certainty only
        pass
    else:
        if begins and connection.direction is Direction.OUT and key.protocol in _ASKED_BY_TRANSPORT:
            payload, layer = payload[packet.transport_offset :], infos.PayloadLayer.TRANSPORT
        if not connection.remembers and key.local != key.remote:
            direction = int(packet.source == key.remote)
    return infos.ConnectionInfo(
        held.id,
        connection.process.pid,
        direction,
        key.protocol,
        key.local.packed,
        key.remote.packed,
        *((key.local_port, key.remote_port) if connection.remembers else (0, 0)),
        layer,
        payload,
    )


def _end(connection: Connection) -> infos.ConnectionEnd:
    key = connection.key
    return infos.ConnectionEnd(
        connection.process.pid,
        _wire_direction(connection.direction),
        key.protocol,
        key.local.packed,
        key.remote.packed,
        key.local_port,
        key.remote_port,
    )


def _entry(key: ConnectionKey, sent: int, received: int) -> infos.BandwidthEntry:
    return infos.BandwidthEntry(
        key.local.packed, key.local_port, key.remote.packed, key.remote_port, sent, received
    )
