"""names/initial_keys.py: the keys, header and packet of RFC 9001 and RFC 9369, appendix A."""

from __future__ import annotations

import pytest
from aioquic.quic.crypto import CryptoPair
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.names.initial_keys import Keys, WrongKeys, expand_label, whole_number
from tidewaiter.names.quic import VERSIONS, InitialReader

V1, V2 = 1, 0x6B3343CF
CONNECTION_ID = bytes.fromhex("8394c8f03e515708")
FRAMES = bytes.fromhex(  # section A.2: the CRYPTO frame; padding follows
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000"
    "c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005"
    "00050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b"
    "0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff"
    "05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
).ljust(1162, b"\0")
VECTORS = {  # header in the clear, the first 32 bytes of the packet, its tag: that proves all of it
    V1: (
        "c300000001088394c8f03e5157080000449e00000002",
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
        "e221af44860018ab0856972e194cd934",
    ),
    V2: (
        "d36b3343cf088394c8f03e5157080000449e00000002",
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
    ),
}


def packet(version: int) -> bytes:
    """The packet of section A.2, encrypted by aioquic, and equal to what the RFC prints."""
    pair = CryptoPair()
    pair.setup_initial(cid=CONNECTION_ID, is_client=True, version=version)
    header, begin, tag = map(bytes.fromhex, VECTORS[version])
    made = pair.encrypt_packet(header, FRAMES, 2)
    assert (made[:32], made[-16:], len(made)) == (begin, tag, 1200)
    return made


@pytest.mark.parametrize(
    ("version", "key", "iv", "mask"),
    [  # section A.1
        (
            V1,
            "1f369613dd76d5467730efcbe3b1a22d",
            "fa044b2f42a3fd3b46fb255c",
            "9f50449e04a0e810283a1e9933adedd2",
        ),
        (
            V2,
            "8b1a0bc121284290a29e0971b5cd045d",
            "91f73e2351d8fa91660e909f",
            "45b95e15235d6f45a6b19cbcb0294ba9",
        ),
    ],
)
def test_the_keys_of_the_rfc(version: int, key: str, iv: str, mask: str) -> None:
    initial = hmac.HMAC(VERSIONS[version].salt, hashes.SHA256())
    initial.update(CONNECTION_ID)
    secret = expand_label(initial.finalize(), b"client in", 32)
    label = VERSIONS[version].label
    assert expand_label(secret, label + b"key", 16).hex() == key
    assert expand_label(secret, label + b"iv", 12).hex() == iv
    assert expand_label(secret, label + b"hp", 16).hex() == mask


@pytest.mark.parametrize("version", [V1, V2])
def test_the_packet_of_the_rfc(version: int) -> None:
    keys = Keys(VERSIONS[version].salt, VERSIONS[version].label, CONNECTION_ID)
    assert keys.decrypt(packet(version), 18, 0) == (2, FRAMES)
    hello = InitialReader().feed(packet(version))
    assert hello is not None
    assert (hello.name, hello.protocols) == ("example.com", ("alpn",))


def test_other_keys_and_changed_packets_do_not_fit() -> None:
    good = packet(V1)
    with pytest.raises(WrongKeys):
        Keys(VERSIONS[V2].salt, VERSIONS[V2].label, CONNECTION_ID).decrypt(good, 18, 0)
    keys = Keys(VERSIONS[V1].salt, VERSIONS[V1].label, CONNECTION_ID)
    for at in (0, 7, 19, 600, 1199):
        changed = bytearray(good)
        changed[at] ^= 1
        with pytest.raises(WrongKeys):
            keys.decrypt(bytes(changed), 18, 0)


@given(st.integers(0, 2**62 - 1), st.integers(-100, 100), st.sampled_from([8, 16, 24, 32]))
def test_a_number_near_the_expected_one_is_found_whole(expected: int, distance: int, bits: int) -> None:
    number = expected + distance
    if 0 <= number < 2**62:
        assert whole_number(number & (1 << bits) - 1, bits, expected) == number


def test_the_number_of_the_rfc() -> None:
    assert whole_number(0x9B32, 16, 0xA82F30EA + 1) == 0xA82F9B32  # RFC 9000 appendix A.3
