"""model/packet_socket.py: how a packet socket reads."""

from __future__ import annotations

from tidewaiter.model.packet_socket import PacketSocket
from tidewaiter.model.process import Process

ARPING = Process(pid=42, path="/usr/sbin/arping")


def test_as_people_read_it() -> None:
    assert str(PacketSocket(1, ARPING, "eth0", 5)) == "arping (process 42) uses a packet socket on eth0"
    assert str(PacketSocket(1, ARPING, "", 5)) == "arping (process 42) uses a packet socket"
