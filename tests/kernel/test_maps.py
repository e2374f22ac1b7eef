"""kernel/maps.py on maps of the live kernel that nothing uses but the test."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tidewaiter.kernel.btf import Layout, Member
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel
from tidewaiter.kernel.maps import Map, possible_cpus

U64 = Layout("number", 8, (Member("value", 0, "Q"),))


@pytest.mark.live
def test_bytes_in_bytes_out(kernel: Kernel) -> None:
    namespaces = kernel.map("namespaces")
    key, value = struct.pack("<Q", 4711), struct.pack("<I", 3)
    assert namespaces.get(key) is None
    namespaces.put(key, value)
    assert namespaces.get(key) == value
    namespaces.put(key, b"\4\0\0\0")
    assert namespaces.get(key) == b"\4\0\0\0"
    assert namespaces.delete(key) is True
    assert namespaces.delete(key) is False
    assert namespaces.get(key) is None


@pytest.mark.live
def test_all_entries_are_found_once(kernel: Kernel) -> None:
    namespaces = kernel.map("namespaces")
    expected = {struct.pack("<Q", number): struct.pack("<I", number * 2) for number in range(500)}
    for key, value in expected.items():
        namespaces.put(key, value)
    found = list(namespaces.items())
    assert len(found) == 500
    assert dict(found) == expected
    for key in list(namespaces.keys()):
        assert namespaces.delete(key)
    assert list(namespaces.keys()) == []


@pytest.mark.live
def test_more_entries_than_fit_into_one_call(kernel: Kernel) -> None:
    makers = kernel.map("makers")
    assert makers.value is not None
    assert list(makers.items()) == []
    expected = {}
    for number in range(10_000):
        key = struct.pack("<Q", number)
        expected[key] = struct.pack("<Q", number).ljust(makers.value.size, b"\0")
        makers.put(key, expected[key])
    found = list(makers.items())
    assert len(found) == 10_000
    assert dict(found) == expected
    assert sorted(makers.values()) == sorted(expected.values())
    assert makers.delete(struct.pack("<Q", 5000))
    makers.delete_all([struct.pack("<Q", number) for number in (10_001, *range(1, 10_000), 10_002)])
    assert list(makers.keys()) == [struct.pack("<Q", 0)]
    makers.delete_all([])
    makers.delete_all([struct.pack("<Q", 0), struct.pack("<Q", 0)])
    assert list(makers.items()) == []


@pytest.mark.live
def test_many_entries_in_one_call(kernel: Kernel) -> None:
    there = kernel.map("makers")
    assert there.key is not None
    assert there.value is not None
    many = {struct.pack("<Q", number): bytes([number % 250]) * there.value.size for number in range(5000)}
    there.put_all(many)
    assert dict(there.items()) == many
    there.put_all({})
    with pytest.raises(ValueError, match="a key of map makers has 8 bytes, not 7"):
        there.put_all({bytes(7): bytes(there.value.size)})
    with pytest.raises(KernelError, match="writing map makers"):
        there.put_all(
            {struct.pack("<Q", 1 << 40 | number): bytes(there.value.size) for number in range(20000)}
        )
    there.delete_all([key for key, _ in there.items()])
    assert dict(there.items()) == {}


def test_fields_by_their_names(kernel: Kernel) -> None:
    listeners = kernel.map("listeners")
    key = {"namespace": 1, "port": 80, "protocol": 6, "family": 4, "address": b"\n\x4d\0\1" + bytes(12)}
    assert listeners.read(**key) is None
    listeners.write(key, {"owner_pid": 42, "owner_uid": 1000, "cookie": 9})
    found = listeners.read(**key)
    assert found is not None
    assert (found["owner_pid"], found["owner_uid"], found["cookie"], found["owner_gid"]) == (42, 1000, 9, 0)
    assert listeners.read(**key | {"protocol": 17}) is None
    assert listeners.delete(struct.pack("<IHBB4s12x", 1, 80, 6, 4, b"\n\x4d\0\1"))


@pytest.mark.live
def test_a_counter_is_the_sum_of_all_processors(kernel: Kernel) -> None:
    counters = kernel.map("counters")
    key, cpus = struct.pack("<I", 2), possible_cpus()
    counters.put(key, b"".join(struct.pack("<Q", number + 1) for number in range(cpus)))
    assert counters.sum(value=2) == cpus * (cpus + 1) // 2
    assert counters.sum(value=3) == 0
    raw = counters.get(key)
    assert raw is not None
    assert len(raw) == 8 * cpus
    counters.put(key, bytes(8 * cpus))


@pytest.mark.live
def test_what_the_kernel_refuses_is_said(kernel: Kernel) -> None:
    config = kernel.map("config")
    with pytest.raises(KernelError, match="deleting from map config") as caught:
        config.delete(bytes(4))
    assert caught.value.errno == errno.EINVAL  # an array's entries are always there
    assert config.key is not None
    with pytest.raises(KernelError, match="writing map config"):
        config.put(struct.pack("<I", 1), config.get(bytes(4)) or b"")
    assert config.get(struct.pack("<I", 1)) is None


@pytest.mark.live
def test_a_closed_map_is_closed_once(kernel: Kernel) -> None:
    again = Map("again", os.dup(kernel.map("namespaces").fd), U64, None)
    again.close()
    again.close()
    assert again.fd == -1
    with pytest.raises(KernelError, match="reading map again: Bad file descriptor"):
        again.get(bytes(8))
    with pytest.raises(KernelError, match="reading map again: Bad file descriptor"):
        list(again.items())
    with pytest.raises(KernelError, match="deleting from map again: Bad file descriptor"):
        again.delete_all([bytes(8)])


def test_bytes_of_the_wrong_size_never_reach_the_kernel() -> None:
    """libbpf would read and write beyond them."""
    item = Map("sample", -1, U64, Layout("value", 4, (Member("value", 0, "I"),)))
    for key in (b"", bytes(7), bytes(9)):
        with pytest.raises(ValueError, match=f"a key of map sample has 8 bytes, not {len(key)}"):
            item.get(key)
        with pytest.raises(ValueError, match="a key of map sample"):
            item.delete(key)
        with pytest.raises(ValueError, match="a key of map sample"):
            item.put(key, bytes(4))
    with pytest.raises(ValueError, match="a value of map sample has 4 bytes, not 3"):
        item.put(bytes(8), bytes(3))


def test_a_value_for_each_processor_takes_eight_bytes() -> None:
    item = Map("sample", -1, U64, Layout("value", 4, (Member("value", 0, "I"),)), cpus=3)
    with pytest.raises(ValueError, match="a value of map sample has 24 bytes, not 12"):
        item.put(bytes(8), bytes(12))


def test_processors_that_may_come_are_counted() -> None:
    assert possible_cpus() >= (os.cpu_count() or 1)
