"""Tap interfaces on the bridge of this Mac."""

import contextlib
import fcntl
import os
import secrets
import struct
import subprocess
from collections.abc import Iterator

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI (bare frames), IFF_VNET_HDR (offloads)


@contextlib.contextmanager
def tap(bridge: str) -> Iterator[int]:
    """A tap that lives as long as somebody holds its descriptor: QEMU, after this block.

    Raises: OSError, subprocess.SubprocessError.
    """
    name = f"vzd{secrets.token_hex(5)}"
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_FLAGS))
        subprocess.run(["ip", "link", "set", "dev", name, "master", bridge, "up"], check=True, capture_output=True)
        yield descriptor
    finally:
        os.close(descriptor)
