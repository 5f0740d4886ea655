"""The kernel is a function with the signature of sysctlbyname(3): this host has none."""

import ctypes
import errno
from types import SimpleNamespace
from typing import Any

import pytest

from vzkubelet import sysctl

VALUES = {b"kern.bootsessionuuid": b"0A1B\0", b"hw.optional.arm64": b"\1\0\0\0"}


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    pointers: Any = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p, ctypes.c_size_t]

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, *pointers, use_errno=True)
    def sysctlbyname(name: bytes, buffer: int | None, size: Any, _new: int | None, _length: int) -> int:
        value = VALUES.get(name)
        if value is None:
            ctypes.set_errno(errno.ENOENT)
            return -1
        if buffer is not None:
            ctypes.memmove(buffer, value, min(len(value), size[0]))
        size[0] = len(value)
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(sysctlbyname=sysctlbyname))


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_a_value_comes_whole(name: bytes, value: bytes) -> None:
    assert sysctl.read(name.decode()) == value


def test_a_name_that_the_kernel_does_not_know_is_told() -> None:
    with pytest.raises(OSError, match=r"no\.such") as told:
        sysctl.read("no.such")
    assert told.value.errno == errno.ENOENT
