"""An owner of the driver, from the wire up: it reads infos, writes commands, and shows what it decides.

    tidewaiter lab --device /tmp/device -- sh -c 'python3 examples/owner.py /tmp/device & sleep 1; curl $LAB_HTTP'

It accepts everything but port 23. Another language needs what this needs: a Unix socket, and docs/reference/wire.md.
"""

from __future__ import annotations

import socket
import sys
import time
from ipaddress import ip_address

from tidewaiter.protocol.command import GetBandwidthStats, GetLogs, Verdict, VerdictCommand, encode
from tidewaiter.protocol.info import BandwidthStats, ConnectionEnd, ConnectionInfo, LogLine
from tidewaiter.protocol.stream import InfoDecoder

TELNET = 23
PATIENCE = 10.0


def connect(path: str) -> socket.socket:
    """The device; the driver may still be starting."""
    deadline = time.monotonic() + PATIENCE
    while True:
        device = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            device.connect(path)
        except OSError:
            device.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return device


def decide(asked: ConnectionInfo) -> Verdict:
    """Your policy goes here."""
    return Verdict.PERMANENT_BLOCK if asked.remote_port == TELNET else Verdict.PERMANENT_ACCEPT


def show(info: ConnectionInfo | ConnectionEnd, word: str) -> None:
    """One line about a connection."""
    arrow = "<-" if info.direction else "->"
    remote = f"{ip_address(info.remote_ip)} {info.remote_port}"
    print(f"{word:16} pid {info.process_id} {arrow} {remote} protocol {info.protocol}", flush=True)


def main() -> None:
    """Owns the device until the driver ends."""
    device, infos = connect(sys.argv[1]), InfoDecoder()
    while data := device.recv(1 << 16):
        for info in infos.feed(data):
            if isinstance(info, ConnectionInfo):
                verdict = decide(info)
                device.sendall(encode(VerdictCommand(info.id, verdict)))
                show(info, verdict.word)
            elif isinstance(info, ConnectionEnd):
                show(info, "end")
                device.sendall(encode(GetBandwidthStats()) + encode(GetLogs()))
            elif isinstance(info, BandwidthStats):
                for entry in info.entries:
                    print(
                        f"{'carried':16} {entry.transmitted_bytes} out, {entry.received_bytes} in", flush=True
                    )
            elif isinstance(info, LogLine):
                print(f"{'log':16} {info.text}", flush=True)


if __name__ == "__main__":
    main()
