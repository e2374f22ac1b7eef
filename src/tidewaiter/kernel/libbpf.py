"""libbpf, as far as it is used here: the reference loader, called through ctypes.

Only the system's ``libbpf.so.1`` is needed at run time (API of version 1.0 and later, bpf/libbpf.h and
bpf/bpf.h). Every call that fails raises `KernelError` with the kernel's reason.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any


class KernelError(OSError):
    """This kernel refused something; the message says what, why, and what to do about it."""


_REMEDIES = {
    errno.EPERM: "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    errno.EACCES: "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    errno.ENOENT: "see `tidewaiter doctor` for what this kernel lacks",
    errno.ENOMEM: "the kernel is out of memory for eBPF maps",
}

_P, _I, _S, _U64, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_P, [_P]),
    "bpf_object__open_file": (_P, [_S, _P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__btf": (_P, [_P]),
    "btf__raw_data": (_P, [_P, ctypes.POINTER(ctypes.c_uint32)]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_object__find_map_by_name": (_P, [_P, _S]),
    "bpf_object__next_program": (_P, [_P, _P]),
    "bpf_object__find_program_by_name": (_P, [_P, _S]),
    "bpf_map__name": (_S, [_P]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__reuse_fd": (_I, [_P, _I]),
    "bpf_map__initial_value": (_P, [_P, ctypes.POINTER(_SIZE)]),
    "bpf_program__name": (_S, [_P]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_program__set_log_buf": (_I, [_P, _P, _SIZE]),
    "bpf_program__attach": (_P, [_P]),
    "bpf_program__attach_cgroup": (_P, [_P, _I]),
    "bpf_program__attach_iter": (_P, [_P, _P]),
    "bpf_link__fd": (_I, [_P]),
    "bpf_link__pin": (_I, [_P, _S]),
    "bpf_link__destroy": (_I, [_P]),
    "bpf_link_create": (_I, [_I, _I, _I, _P]),
    "bpf_link_detach": (_I, [_I]),
    "bpf_obj_pin": (_I, [_I, _S]),
    "bpf_obj_get": (_I, [_S]),
    "bpf_iter_create": (_I, [_I]),
    "bpf_prog_test_run_opts": (_I, [_I, _P]),
    "bpf_prog_query": (_I, [_I, _I, ctypes.c_uint32, _P, _P, _P]),
    "bpf_prog_get_fd_by_id": (_I, [ctypes.c_uint32]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, _P]),
    "bpf_map_lookup_elem": (_I, [_I, _S, _P]),
    "bpf_map_update_elem": (_I, [_I, _S, _S, _U64]),
    "bpf_map_delete_elem": (_I, [_I, _S]),
    "bpf_map_get_next_key": (_I, [_I, _P, _P]),
    "bpf_map_update_batch": (_I, [_I, _S, _S, ctypes.POINTER(ctypes.c_uint32), _P]),
    "bpf_map_delete_batch": (_I, [_I, _S, ctypes.POINTER(ctypes.c_uint32), _P]),
    "bpf_map_lookup_batch": (_I, [_I, _P, _P, _P, _P, ctypes.POINTER(ctypes.c_uint32), _P]),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded library with its signatures. Raises KernelError if the machine has none."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(
            errno.ENOENT, "libbpf.so.1 is not installed; apt install libbpf1 (Debian 12, Ubuntu 24.04)"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(None)
    return lib


def refusal(code: int, doing: str) -> KernelError:
    """The error for a call that failed with errno `code` while ``doing`` something."""
    remedy = _REMEDIES.get(code, "see `tidewaiter doctor`")
    return KernelError(code, f"{doing}: {os.strerror(code)}; {remedy}")


def check(result: int, doing: str) -> int:
    """Passes on a non-negative result. Raises KernelError for a negative one."""
    if result < 0:
        raise refusal(ctypes.get_errno() or -result, doing)
    return result


def check_pointer(result: int | None, doing: str) -> int:
    """Passes on a pointer. Raises KernelError for NULL."""
    if not result:
        raise refusal(ctypes.get_errno(), doing)
    return result
