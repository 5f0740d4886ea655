"""What is left of an HTTP connection after its 101: a transport that is ours, with back pressure both ways.

aiohttp has no hook for protocols other than WebSocket, so the transport gets a new protocol. aiohttp's own protocol is
told of the connection's end when we are done, or gets the transport's end directly.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from vzkubelet.errors import Unavailable

_log = logging.getLogger(__name__)

WRITE_HIGH_BYTES: Final = 128 * 1024
"""Unsent bytes at which writers wait; asyncio's default for TLS is four times that, per connection."""
UNSENT_LIMIT_BYTES: Final = 1024 * 1024
"""Unsent bytes at which a peer is dropped: only answers to its own pings can pile up this far."""
RECEIVE_BYTES: Final = 64 * 1024
KEEPALIVE_IDLE_S: Final = 30
"""TCP keep-alive: a peer that lost power is found out within two minutes, not after the kernel's two hours."""
CLOSE_TIMEOUT_S: Final = 5.0
TCP_ESTABLISHED: Final = 1
"""Linux, netinet/tcp.h."""
TCPS_ESTABLISHED: Final = 4
"""XNU, netinet/tcp_fsm.h."""

_receive_buffer: Final = memoryview(bytearray(RECEIVE_BYTES))
"""Shared by all connections: what is received is copied out before the event loop turns."""


class UpgradedConnection(asyncio.BufferedProtocol):
    """Bytes in by callback, bytes out with `write` and `drain`. One owner."""

    def __init__(self, http_protocol: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._http_protocol = http_protocol
        self._transport = transport
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self._early: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._reading_paused = False

    def start(self, on_data: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        """Hand over what has come and what comes; `on_lost` is called once, at once if it is over already."""
        self._on_data, self._on_lost = on_data, on_lost
        early, self._early = self._early, []
        for data in early:
            on_data(data)
        if self._lost.is_set():
            on_lost()

    # --- asyncio.BufferedProtocol ---

    def get_buffer(self, _sizehint: int) -> memoryview:
        return _receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_receive_buffer[:nbytes])
        if self._on_data is None:
            self._early.append(data)
        else:
            self._on_data(data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        _log.debug("= upgraded connection lost: %s", exc)
        self._lost.set()
        self._writable.set()
        if self._on_lost is not None:
            self._on_lost()

    # --- For the owner ---

    @property
    def lost(self) -> bool:
        return self._lost.is_set()

    def write(self, data: bytes) -> None:
        """Queue bytes; what a lost connection is given is dropped."""
        if not data or self._lost.is_set() or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > UNSENT_LIMIT_BYTES:
            _log.warning("dropping a stream connection that does not read its answers")
            self._transport.abort()

    async def drain(self) -> None:
        """Wait until the peer has room. Raises Unavailable when it has gone."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self._lost.is_set() or self._transport.is_closing():
            raise Unavailable("the client of this stream has gone")

    def pause_reading(self) -> None:
        if not self._reading_paused and not self._lost.is_set():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._lost.is_set():
                self._transport.resume_reading()

    def peer_has_closed(self) -> bool:
        """Whether the peer closed its side, told by the kernel even while input waits unread."""
        return self._lost.is_set() or _peer_has_closed(self._transport.get_extra_info("socket"))

    async def wait_lost(self) -> None:
        await self._lost.wait()

    async def close(self) -> None:
        """Send what is queued, then close, by force after `CLOSE_TIMEOUT_S`; aiohttp is told last."""
        self.resume_reading()
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._lost.wait()
        except TimeoutError:
            pass
        finally:
            self._transport.abort()
            if isinstance(self._http_protocol, asyncio.Protocol):
                asyncio.get_running_loop().call_soon(self._http_protocol.connection_lost, None)


async def switch_protocols(
    request: web.Request, headers: Mapping[str, str]
) -> tuple[web.StreamResponse, UpgradedConnection]:
    """Answer 101 and take the connection over; the handler returns the response after `UpgradedConnection.close`.

    The protocol changes before the answer is written, so that no byte of the peer can reach aiohttp's parser.
    """
    transport = request.transport
    if transport is None:
        raise Unavailable("the client has gone before its request was answered")
    connection = UpgradedConnection(request.protocol, transport)
    transport.set_protocol(connection)
    transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
    _keep_alive(transport.get_extra_info("socket"))
    response = web.StreamResponse(status=101, headers=headers)
    try:
        await response.prepare(request)
    except BaseException:
        await connection.close()
        raise
    return response, connection


def _keep_alive(raw: socket.socket | None) -> None:
    if raw is None:
        return
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "darwin":
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, KEEPALIVE_IDLE_S)
        else:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    except OSError as exc:
        _log.debug("= no keep-alive on a stream connection: %s", exc)


def _peer_has_closed(raw: socket.socket | None) -> bool:
    """Whether TCP is in another state than ESTABLISHED; the state is the first byte of the kernel's answer."""
    if raw is None:
        return False
    try:
        if sys.platform == "darwin":
            return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONNECTION_INFO, 1)[0] != TCPS_ESTABLISHED
        return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_ESTABLISHED
    except (OSError, IndexError):
        return False
