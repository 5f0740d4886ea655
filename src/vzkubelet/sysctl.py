"""Figures of macOS's kernel by their name."""

import ctypes
import os


def read(name: str) -> bytes:
    """sysctlbyname(3): the value as the kernel has it, a string with its NUL. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sysctlbyname.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_void_p,
        ctypes.c_size_t,
    ]
    size = ctypes.c_size_t(0)
    _call(libc, name, None, size)
    buffer = ctypes.create_string_buffer(size.value)
    _call(libc, name, buffer, size)
    return buffer.raw[: size.value]


def _call(libc: ctypes.CDLL, name: str, buffer: object, size: ctypes.c_size_t) -> None:
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
