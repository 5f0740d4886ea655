"""QMP commands, one connection each.

QEMU's monitor serves one client at a time. A connection that is opened for a command and closed after it can neither
block the next daemon nor be blocked for long by a frozen one; events come from QEMU's event log instead (`events`).
"""

import asyncio
import logging
import re
import socket
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from vzkubelet.errors import DeadlineExceeded, MachineFault, Unavailable, clip
from vzkubelet.machines.directory import reachable_socket_path

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+(?P<host>[0-9.]+)\s+(?P<port>\d+)\s+[0-9.]+\s+(?P<guest>\d+)")

# The library reports refused and broken connections as errors; here they are answers, and are raised to the caller.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


async def execute(
    monitor: Path, command: str, arguments: dict[str, object] | None = None, timeout_s: float = 10.0
) -> object:
    """Run one command on the monitor socket and return its result.

    Raises: Unavailable (nobody listens), DeadlineExceeded (no answer), MachineFault (QEMU refuses the command).
    """
    try:
        peer = _connected(monitor)
    except OSError as exc:
        raise Unavailable(f"QEMU's monitor {monitor} cannot be reached: {exc.strerror or exc}") from exc
    client = QMPClient("vzkubelet")
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(peer)
            return await client.execute(command, arguments)
    except TimeoutError:
        raise DeadlineExceeded(f"QEMU did not answer {command} at {monitor} within {timeout_s:g} s") from None
    except OSError as exc:
        raise Unavailable(f"QEMU's monitor {monitor} cannot be reached: {exc.strerror or exc}") from exc
    except QMPError as exc:
        raise MachineFault(f"QEMU failed at {command}: {clip(str(exc) or type(exc).__name__)}") from exc
    finally:
        await _disconnect(client)
        peer.close()  # still open when we were cancelled before the client took it


def _connected(monitor: Path) -> socket.socket:
    """A connected socket: on this host a connect to a listening unix socket never waits for the peer."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.setblocking(False)
        with reachable_socket_path(monitor) as name:
            peer.connect(name)
    except BaseException:
        peer.close()
        raise
    return peer


async def _disconnect(client: QMPClient) -> None:
    try:
        await client.disconnect()
    except (QMPError, OSError, EOFError):
        return  # it ends with the process, or was never there


async def ssh_port(monitor: Path) -> int:
    """The loopback port that QEMU's user network forwards to the guest's port 22. Raises as `execute`."""
    text = await execute(monitor, "human-monitor-command", {"command-line": "info usernet"})
    for found in _FORWARD.finditer(str(text)):
        if found["guest"] == "22":
            return int(found["port"])
    raise MachineFault(f"QEMU forwards no port to the guest: {clip(str(text))}")
