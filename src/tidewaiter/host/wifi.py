"""The name of the Wi-Fi network that this host is in: nl80211, over generic netlink.

The codec does no I/O. Sources: include/uapi/linux/genetlink.h, nl80211.h.
"""

from __future__ import annotations

import struct

from tidewaiter.host.rtnetlink import MalformedMessage, attribute, attributes, request

FAMILY = "nl80211"

_GENERAL = struct.Struct("=BBxx")  # struct genlmsghdr: command, version
CONTROL = 0x10
"""The type of the messages about families (GENL_ID_CTRL)."""

_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2  # CTRL_CMD_…, CTRL_ATTR_…
_GET_INTERFACE, _SSID = 5, 52  # NL80211_CMD_…, NL80211_ATTR_…


def find_family(sequence: int) -> bytes:
    """The request for the number of the family; a kernel without Wi-Fi answers ENOENT."""
    body = _GENERAL.pack(_GET_FAMILY, 1) + attribute(_FAMILY_NAME, FAMILY.encode() + b"\0")
    return request(CONTROL, body, sequence, dump=False)


def family(body: bytes) -> int:
    """The number in an answer to `find_family`, 0 for none. Raises MalformedMessage."""
    return int.from_bytes(_attributes(body).get(_FAMILY_ID, b"")[:2], "little")


def list_of_interfaces(number: int, sequence: int) -> bytes:
    """The request for all interfaces of Wi-Fi; ``number`` is the family's."""
    return request(number, _GENERAL.pack(_GET_INTERFACE, 0), sequence)


def network(body: bytes) -> str:
    """The name of the network that an interface of the list is in, "" for none. Raises MalformedMessage."""
    return _attributes(body).get(_SSID, b"").decode(errors="replace")


def _attributes(body: bytes) -> dict[int, bytes]:
    if len(body) < _GENERAL.size:
        raise MalformedMessage(f"{len(body)} bytes are too few for generic netlink")
    return dict(attributes(body[_GENERAL.size :]))
