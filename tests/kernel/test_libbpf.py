"""kernel/libbpf.py: what becomes of a refusal."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator

import pytest

from tidewaiter.kernel import libbpf
from tidewaiter.kernel.libbpf import KernelError, check, check_pointer, library, refusal


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The library as if it had not been loaded yet, and so again afterwards."""
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.live
def test_the_library_has_every_function_with_its_signature() -> None:
    for name, (result, arguments) in libbpf._SIGNATURES.items():
        function = getattr(library(), name)
        assert (function.restype, function.argtypes) == (result, arguments)


def test_a_machine_without_the_library_is_told_the_package(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(KernelError, match=r"libbpf\.so\.1 is not installed; apt install libbpf1") as caught:
        library()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EPERM, "loading x: Operation not permitted; run as root, or with CAP_BPF, CAP_NET_ADMIN"),
        (errno.EACCES, "loading x: Permission denied; run as root, or with CAP_BPF"),
        (errno.ENOENT, "loading x: No such file or directory; see `tidewaiter doctor`"),
        (errno.ENOMEM, "loading x: Cannot allocate memory; the kernel is out of memory for eBPF maps"),
        (errno.EINVAL, "loading x: Invalid argument; see `tidewaiter doctor`"),
    ],
)
def test_a_refusal_says_what_why_and_what_to_do(code: int, says: str) -> None:
    error = refusal(code, "loading x")
    assert error.errno == code
    assert str(error.strerror).startswith(says)


def test_a_result_that_is_no_failure_is_passed_on() -> None:
    assert check(0, "x") == 0
    assert check(7, "x") == 7
    assert check_pointer(0x1000, "x") == 0x1000


def test_a_failure_is_raised_with_the_calls_own_error() -> None:
    ctypes.set_errno(errno.EBUSY)
    with pytest.raises(KernelError, match="attaching: Device or resource busy") as caught:
        check(-1, "attaching")
    assert caught.value.errno == errno.EBUSY
    ctypes.set_errno(0)
    with pytest.raises(KernelError, match="attaching: No such device") as caught:
        check(-errno.ENODEV, "attaching")
    assert caught.value.errno == errno.ENODEV
    ctypes.set_errno(errno.EINVAL)
    for nothing in (None, 0):
        with pytest.raises(KernelError, match="opening: Invalid argument"):
            check_pointer(nothing, "opening")


@pytest.mark.live
def test_the_kernels_own_reason_arrives() -> None:
    with pytest.raises(KernelError, match="opening a pin: No such file or directory") as caught:
        check(library().bpf_obj_get(b"/sys/fs/bpf/tidewaiter-never-pinned"), "opening a pin")
    assert caught.value.errno == errno.ENOENT
