"""eBPF maps, by the key and value types that the objects themselves describe."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidewaiter.kernel.btf import Layout
from tidewaiter.kernel.libbpf import check, library, refusal

_BATCH = 4096  # entries in one call


class Map:
    """One map: raw bytes with `get`, `put`, `delete` and `items`; by field names with `read` and `write`.

    Raises KernelError when the kernel refuses, ValueError for bytes of the wrong size.
    """

    def __init__(self, name: str, fd: int, key: Layout | None, value: Layout | None, cpus: int = 1) -> None:
        self.name, self.fd, self.key, self.value = name, fd, key, value
        self._cpus = cpus
        size = value.size if value else 0
        self._value_size = (size + 7 & ~7) * cpus if cpus > 1 else size
        self._key_size = key.size if key else 0

    def get(self, key: bytes) -> bytes | None:
        """The value's bytes, or None. Per-CPU maps give the values of all processors in a row."""
        self._sized(key, self._key_size, "key")
        value = ctypes.create_string_buffer(self._value_size)
        if library().bpf_map_lookup_elem(self.fd, key, value) < 0:
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise refusal(ctypes.get_errno(), f"reading map {self.name}")
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Sets a value, new or not."""
        self._sized(key, self._key_size, "key")
        self._sized(value, self._value_size, "value")
        check(library().bpf_map_update_elem(self.fd, key, value, 0), f"writing map {self.name}")

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Sets many values in one call. Not one map's worth of all or nothing: what came before a refusal stays."""
        for key, value in entries.items():
            self._sized(key, self._key_size, "key")
            self._sized(value, self._value_size, "value")
        keys, values = b"".join(entries), b"".join(entries.values())
        count = ctypes.c_uint32(len(entries))
        if entries:
            check(
                library().bpf_map_update_batch(self.fd, keys, values, count, None), f"writing map {self.name}"
            )

    def delete(self, key: bytes) -> bool:
        """Removes an entry; False if there was none."""
        self._sized(key, self._key_size, "key")
        if library().bpf_map_delete_elem(self.fd, key) < 0:
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise refusal(ctypes.get_errno(), f"deleting from map {self.name}")
        return True

    def delete_all(self, keys: Sequence[bytes]) -> None:
        """Removes many entries in one call. Keys that are not there are passed over."""
        while keys:
            count = ctypes.c_uint32(len(keys))
            if library().bpf_map_delete_batch(self.fd, b"".join(keys), count, None) >= 0:
                return
            if ctypes.get_errno() != errno.ENOENT:
                raise refusal(ctypes.get_errno(), f"deleting from map {self.name}")
            keys = keys[count.value + 1 :]  # the kernel stops at the first that is not there

    def keys(self) -> Iterator[bytes]:
        """The keys; entries that come and go meanwhile may be missed."""
        previous: Any = None
        following = ctypes.create_string_buffer(self._key_size)
        for _ in range(1 << 22):  # a bound: a map that is written all the time could lead us in circles
            if library().bpf_map_get_next_key(self.fd, previous, following) < 0:
                return
            yield following.raw
            previous = ctypes.create_string_buffer(following.raw, self._key_size)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a hash map, thousands in one call; entries that come and go meanwhile may be missed."""
        keys = ctypes.create_string_buffer(self._key_size * _BATCH)
        values = ctypes.create_string_buffer(self._value_size * _BATCH)
        place = ctypes.create_string_buffer(max(self._key_size, 4))  # where the kernel goes on
        before, more = None, True
        while more:
            count = ctypes.c_uint32(_BATCH)
            result = library().bpf_map_lookup_batch(self.fd, before, place, keys, values, count, None)
            more, before = result >= 0, place
            if not more and ctypes.get_errno() != errno.ENOENT:  # which says that these are the last ones
                raise refusal(ctypes.get_errno(), f"reading map {self.name}")
            found = ctypes.string_at(keys, count.value * self._key_size)
            contents = ctypes.string_at(values, count.value * self._value_size)
            for number in range(count.value):
                yield _cut(found, number, self._key_size), _cut(contents, number, self._value_size)

    def values(self) -> Iterator[bytes]:
        """Values alone; see `keys`."""
        yield from (value for _, value in self.items())

    def read(self, **key: Any) -> dict[str, Any] | None:
        """The value as fields by name, or None."""
        assert self.key is not None
        assert self.value is not None
        value = self.get(self.key.pack(key))
        return None if value is None else self.value.unpack(value)

    def write(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Sets a value by field names."""
        assert self.key is not None
        assert self.value is not None
        self.put(self.key.pack(key), self.value.pack(value))

    def sum(self, **key: Any) -> int:
        """The sum over all processors of a per-CPU integer."""
        assert self.key is not None
        raw = self.get(self.key.pack(key)) or b""
        return sum(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))

    def close(self) -> None:
        """Gives the file descriptor back; the map itself lives while a program or a pin holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _sized(self, data: bytes, size: int, what: str) -> None:
        if len(data) != size:
            raise ValueError(f"a {what} of map {self.name} has {size} bytes, not {len(data)}")


def _cut(data: bytes, number: int, size: int) -> bytes:
    return data[number * size : (number + 1) * size]


def possible_cpus() -> int:
    """How many processors a per-CPU map has values for (/sys/devices/system/cpu/possible)."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:  # noqa: PTH123
        spans = file.read().strip().split(",")
    return max(int(span.rpartition("-")[2]) for span in spans) + 1
