"""Loads the objects, attaches them with links, and pins what must outlive this process.

Below the pin directory (in bpffs): ``maps/NAME``, ``links/PROGRAM`` and ``hold/N_out``, ``hold/N_in`` for each
guarded namespace N. Pinned links go on enforcing what the kernel knows when this process is gone; the
next one opens the pins and goes on from there. bpffs names must not contain a dot.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
from pathlib import Path

from tidewaiter.kernel import bpffs, objects
from tidewaiter.kernel.attached import in_the_way
from tidewaiter.kernel.btf import Btf
from tidewaiter.kernel.libbpf import KernelError, check, check_pointer, library, refusal
from tidewaiter.kernel.maps import Map, possible_cpus
from tidewaiter.kernel.objects import Mode, ObjectSpec

_LOG_BYTES = 1 << 16
_PER_CPU = frozenset({"counters", "turned_away"})


class LoadedObject:
    """One object in the kernel; closed with `close`, which detaches nothing that is pinned."""

    def __init__(
        self, spec: ObjectSpec, mode: Mode, shared: dict[str, int], constants: dict[str, int]
    ) -> None:
        lib, path = library(), spec.path(mode)
        if not path.exists():
            raise KernelError(
                errno.ENOENT, f"{path.name} is missing from the package; build it again with ./dev setup"
            )
        self._layer = spec.layer
        self._logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        self._object = check_pointer(
            lib.bpf_object__open_file(str(path).encode(), None), f"opening {path.name}"
        )
        try:
            self._share(shared)
            for name, value in constants.items():
                self._set_constant(name, value)
            self._load()
        except BaseException:
            self.close()
            raise
        for name, pointer in self._maps():
            shared.setdefault(name, lib.bpf_map__fd(pointer))

    def program(self, name: str) -> int:
        """The pointer of a program by its function name."""
        return check_pointer(
            library().bpf_object__find_program_by_name(self._object, name.encode()), f"finding program {name}"
        )

    def program_fd(self, name: str) -> int:
        """The file descriptor of a program; it stays this object's."""
        return int(library().bpf_program__fd(self.program(name)))

    def map_fd(self, name: str) -> int:
        """The file descriptor of a map by its name; it stays this object's."""
        pointer = check_pointer(
            library().bpf_object__find_map_by_name(self._object, name.encode()), f"finding map {name}"
        )
        return int(library().bpf_map__fd(pointer))

    def programs(self) -> list[tuple[str, int]]:
        """Names and pointers of all programs."""
        found, pointer = [], library().bpf_object__next_program(self._object, None)
        while pointer:
            found.append((library().bpf_program__name(pointer).decode(), pointer))
            pointer = library().bpf_object__next_program(self._object, pointer)
        return found

    def close(self) -> None:
        """Frees the object. Its maps and programs live on while a pin or a link holds them."""
        if self._object:
            library().bpf_object__close(self._object)
            self._object = 0

    def _maps(self) -> list[tuple[str, int]]:
        found, pointer = [], library().bpf_object__next_map(self._object, None)
        while pointer:
            name = library().bpf_map__name(pointer).decode()
            if "." not in name:  # .rodata and .bss belong to one object alone
                found.append((name, pointer))
            pointer = library().bpf_object__next_map(self._object, pointer)
        return found

    def _share(self, shared: dict[str, int]) -> None:
        for name, pointer in self._maps():
            if name in shared:
                check(library().bpf_map__reuse_fd(pointer, shared[name]), f"sharing map {name}")

    def _set_constant(self, name: str, value: int) -> None:
        size = ctypes.c_uint32()
        lib = library()
        raw = lib.btf__raw_data(lib.bpf_object__btf(self._object), ctypes.byref(size))
        _, offset, width = Btf(ctypes.string_at(raw, size.value)).variable(name)
        pointer = lib.bpf_object__next_map(self._object, None)
        while pointer and not lib.bpf_map__name(pointer).endswith(b".rodata"):
            pointer = lib.bpf_object__next_map(self._object, pointer)
        start = check_pointer(
            lib.bpf_map__initial_value(pointer, ctypes.byref(ctypes.c_size_t())), f"setting {name}"
        )
        ctypes.memmove(start + offset, value.to_bytes(width, "little"), width)

    def _load(self) -> None:
        for name, pointer in self.programs():
            self._logs[name] = ctypes.create_string_buffer(_LOG_BYTES)
            library().bpf_program__set_log_buf(pointer, self._logs[name], _LOG_BYTES)
        if library().bpf_object__load(self._object) < 0:
            code = ctypes.get_errno()
            tails = [f"{name}: {_tail(log.value)}" for name, log in self._logs.items() if log.value]
            said = f" (the verifier's last words: {' | '.join(tails)})" if tails else ""
            error = refusal(code, f"loading the {self._layer} layer")
            raise KernelError(code, f"{error.strerror}{said}")
        self._logs.clear()


def _tail(log: bytes) -> str:
    lines = [
        line
        for line in log.decode(errors="replace").splitlines()
        if line and not line.startswith("processed")
    ]
    return "; ".join(lines[-3:])


class Kernel:
    """The kernel half, loaded: its maps, and what is attached.

    `load` makes everything anew below an empty pin directory, `adopt` takes over what a process
    before this one left there. `remove` detaches all of it; `close` leaves it in force.
    """

    def __init__(self, pins: Path, mode: Mode, fds: dict[str, int], loaded: list[LoadedObject]) -> None:
        self.pins, self.mode = pins, mode
        self._loaded = loaded
        self._fds = fds
        types = objects.maps()
        cpus = possible_cpus()
        self.maps = {
            name: Map(name, os.dup(fd), *types.map_types(name), cpus=cpus if name in _PER_CPU else 1)
            for name, fd in fds.items()
        }

    @classmethod
    def load(cls, pins: Path, mode: Mode) -> Kernel:
        """Makes maps and programs; attaches nothing yet. Raises KernelError."""
        bpffs.ensure()
        for part in ("maps", "links", "hold"):
            (pins / part).mkdir(parents=True, exist_ok=True)
        shared: dict[str, int] = {}
        loaded: list[LoadedObject] = []
        try:
            loaded.extend(_load_layer(spec, mode, shared) for spec in objects.CGROUP_OBJECTS)
            for name, fd in shared.items():
                check(library().bpf_obj_pin(fd, str(pins / "maps" / name).encode()), f"pinning map {name}")
            kernel = cls(pins, mode, shared, loaded)
        except BaseException:
            for item in loaded:
                item.close()
            shutil.rmtree(pins, ignore_errors=True)
            raise
        return kernel

    @classmethod
    def adopt(cls, pins: Path, mode: Mode) -> Kernel:
        """Opens what is pinned. Raises KernelError if something is missing."""
        fds = {
            path.name: check(library().bpf_obj_get(str(path).encode()), f"opening map {path.name}")
            for path in sorted((pins / "maps").iterdir())
        }
        kernel = cls(pins, mode, fds, [])
        for fd in fds.values():
            os.close(fd)
        kernel._fds = {name: item.fd for name, item in kernel.maps.items()}
        return kernel

    def map(self, name: str) -> Map:
        """A map by its name in maps.h."""
        return self.maps[name]

    def identify(self) -> None:
        """Tells the kernel half who we are (identity.bpf.c)."""
        item = LoadedObject(objects.IDENTITY, self.mode, dict(self._fds), {})
        options = struct.pack("<Q", 96).ljust(96, b"\0")  # struct bpf_test_run_opts: only its size
        try:
            check(
                library().bpf_prog_test_run_opts(
                    item.program_fd("tw_identity"), ctypes.create_string_buffer(options, 96)
                ),
                "telling the kernel who we are",
            )
        finally:
            item.close()

    def attach(self, cgroup: Path) -> None:
        """Attaches every layer to a cgroup, with links that are pinned. Raises KernelError."""
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for item in self._loaded:
                for name, pointer in item.programs():
                    link = library().bpf_program__attach_cgroup(pointer, fd)
                    if not link:
                        code = ctypes.get_errno()
                        error = refusal(code, f"attaching {name} to {cgroup}")
                        raise KernelError(
                            code, f"{error.strerror}{in_the_way(cgroup, name) if code == errno.EPERM else ''}"
                        )
                    check(
                        library().bpf_link__pin(link, str(self.pins / "links" / name).encode()),
                        f"pinning {name}",
                    )
                    library().bpf_link__destroy(link)  # the pin keeps it
        finally:
            os.close(fd)

    def pin_hold(self, namespace: int) -> tuple[Path, Path]:
        """Loads the hold programs of a namespace and pins them; the paths are for the rules out and in.

        Those for what comes through, and for what comes in too late, lie beside them.
        """
        item = LoadedObject(objects.HOLD, self.mode, dict(self._fds), {"tw_namespace": namespace})
        ways = {name: f"tw_hold_{name}" for name in ("out", "in", "through", "late")}
        paths = tuple(self.pins / "hold" / f"{namespace}_{way}" for way in ways)
        try:
            for path, name in zip(paths, ways.values(), strict=True):
                check(library().bpf_obj_pin(item.program_fd(name), str(path).encode()), f"pinning {name}")
        finally:
            item.close()
        return paths[0], paths[1]

    def pin_redirect(self, namespace: int, verdict: int, port: int) -> Path:
        """Loads the program that the rule for one target asks, and pins it."""
        constants = {"tw_namespace": namespace, "tw_target": verdict, "tw_target_port": port}
        item = LoadedObject(objects.REDIRECT, self.mode, dict(self._fds), constants)
        path = self.pins / "hold" / f"{namespace}_redirect_{verdict}"
        try:
            check(
                library().bpf_obj_pin(item.program_fd("tw_redirect"), str(path).encode()),
                "pinning tw_redirect",
            )
        finally:
            item.close()
        return path

    def detach(self) -> None:
        """Takes every link away: from now on nothing is refused, held or counted."""
        detach(self.pins)

    def remove(self) -> None:
        """Detaches and unpins everything, and closes. Hold rules must be gone before."""
        self.detach()
        shutil.rmtree(self.pins, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Closes this process's handles; what is pinned goes on."""
        for item in self.maps.values():
            item.close()
        for loaded in self._loaded:
            loaded.close()
        self._loaded.clear()


def detach(pins: Path) -> None:
    """Takes every pinned link away, at once: without its pin alone the kernel lets go of it when it finds the time."""
    for path in pins.glob("links/*"):
        fd = library().bpf_obj_get(str(path).encode())
        if fd >= 0:
            library().bpf_link_detach(fd)  # fails for a cgroup that is gone, and its programs with it
            os.close(fd)
    shutil.rmtree(pins / "links", ignore_errors=True)


def _load_layer(spec: ObjectSpec, mode: Mode, shared: dict[str, int]) -> LoadedObject:
    if spec.layer != "packet":
        return LoadedObject(spec, mode, shared, {})
    try:
        return LoadedObject(spec, mode, shared, {"tw_packet_has_namespace": 1})
    except KernelError:  # before Linux 6.15 a packet cannot say its namespace: tried, not looked up
        return LoadedObject(spec, mode, shared, {"tw_packet_has_namespace": 0})
