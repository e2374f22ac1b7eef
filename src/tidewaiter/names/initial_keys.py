"""The keys of QUIC's Initial packets: derived from what the packet shows, so that anybody can.

Sources: RFC 9001 sections 5.2 (secrets), 5.3 (AEAD), 5.4 (header protection) and RFC 9000 appendix A.3 (packet
numbers). The cryptography is that of the library of this name, which takes 8 MB: so this module is imported with the
first QUIC connection, and not before.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SAMPLE_AT, SAMPLE = 4, 16
"""What header protection goes by: so many bytes, so far behind the beginning of the packet number."""


class WrongKeys(ValueError):  # noqa: N818 - it names what they are
    """A packet was encrypted with other keys, or changed on its way."""


class Keys:
    """What a client encrypts its Initial packets with.

    ``salt`` and ``label`` are those of the version of QUIC, ``connection_id`` is the one that the client has chosen
    for the server.
    """

    def __init__(self, salt: bytes, label: bytes, connection_id: bytes) -> None:
        initial = HMAC(salt, SHA256())  # HKDF-Extract (RFC 5869 section 2.2)
        initial.update(connection_id)
        client = expand_label(initial.finalize(), b"client in", 32)
        self._iv = int.from_bytes(expand_label(client, label + b"iv", 12), "big")
        self._packet = AESGCM(expand_label(client, label + b"key", 16))
        mask = AES(expand_label(client, label + b"hp", 16))
        self._header = Cipher(mask, ECB())  # noqa: S305 - of one block, as RFC 9001 section 5.4.3 says

    def decrypt(self, packet: bytes, at: int, expected: int) -> tuple[int, bytes]:
        """The number and the frames of a packet whose number is at ``at``. Raises WrongKeys.

        ``expected`` is the number that would come next. ``packet`` must be long enough for the sample.
        """
        mask = self._header.encryptor().update(packet[at + SAMPLE_AT : at + SAMPLE_AT + SAMPLE])
        first = packet[0] ^ (mask[0] & 0x0F)
        behind = at + (first & 3) + 1
        cut = bytes(byte ^ key for byte, key in zip(packet[at:behind], mask[1:], strict=False))
        number = whole_number(int.from_bytes(cut, "big"), 8 * len(cut), expected)
        nonce = (self._iv ^ number).to_bytes(12, "big")
        try:
            frames = self._packet.decrypt(nonce, packet[behind:], bytes([first]) + packet[1:at] + cut)
        except InvalidTag:
            raise WrongKeys("the packet was encrypted with other keys") from None
        return number, frames


def expand_label(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with SHA-256 and an empty context (RFC 8446 section 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA256(), size, info).derive(secret)


def whole_number(cut: int, bits: int, expected: int) -> int:
    """The packet number of which the lowest ``bits`` are ``cut`` (RFC 9000 appendix A.3)."""
    window = 1 << bits
    number = expected & -window | cut
    if number <= expected - window // 2 and number < (1 << 62) - window:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number
