"""Free TCP ports that stay free while a component restarts."""

import contextlib
import random
import socket
from pathlib import Path

FIRST_PORT = 20000
LAST_PORT = 32000


def free_port(host: str = "127.0.0.1") -> int:
    """A port nothing listens on, outside of the range the kernel hands to outgoing connections.

    A port of that range could be taken by any client in the seconds between two lives of a component.
    """
    last = min(LAST_PORT, _first_ephemeral_port() - 1)
    for _ in range(200):
        port = random.randint(FIRST_PORT, last)
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free TCP port between {FIRST_PORT} and {last} on {host}")


def _first_ephemeral_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        return LAST_PORT + 1
    # A machine that hands out everything from 1024 up leaves no better choice than the usual range.
    return first if first > FIRST_PORT + 1000 else LAST_PORT + 1
