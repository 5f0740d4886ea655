"""HTTP to the API server: one pool of kept-alive connections. Status codes are no errors here, silence is.

`Transport` is what `vzkubelet.kube.client` needs; `HttpTransport` is aiohttp. A peer that has vanished (power, a
dropped route) is found by TCP keep-alive within about a minute, since a watch may be silent for long.
"""

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from yarl import URL

from vzkubelet.errors import DeadlineExceeded, Unavailable, clip

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS = 64
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
"""30 s of silence, then three probes: the figures of client-go's HTTP/2 health check (30 s + 15 s) on TCP's level."""
UNACKNOWLEDGED_LIMIT_MS = 30_000
"""Time in which what was sent must be acknowledged (Linux; elsewhere the request's own time-out has to do)."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """With a leading slash, quoted, without the query."""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    timeout_s: float | None = None
    """Until the headers of the answer are here; `Response.read` counts into it too. None = no limit."""


class Response(Protocol):
    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""

    async def read(self) -> bytes: ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises Unavailable when the connection breaks before its end."""


class Transport(Protocol):
    def send(
        self, request: Request, tls: ssl.SSLContext | None, server_name: str | None
    ) -> AbstractAsyncContextManager[Response]:
        """One exchange; leaving the context gives the connection back, or closes it when the body was not read.

        Raises:
            Unavailable: no connection, or it broke. DeadlineExceeded: no answer in time.
        """

    async def close(self) -> None: ...


class _HttpResponse:
    def __init__(self, response: aiohttp.ClientResponse, server: str) -> None:
        self._response = response
        self._server = server

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        return await self._response.read()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as exc:
            raise _broken(self._server, exc) from exc


class HttpTransport:
    """Transport to one server URL. Make it inside the event loop; `close` ends all its exchanges."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, socket_factory=_socket),
            auto_decompress=True,
            # Lines of a watch are whole objects; this much is buffered before the connection is paused.
            read_bufsize=1 << 18,
        )

    @contextlib.asynccontextmanager
    async def send(
        self, request: Request, tls: ssl.SSLContext | None, server_name: str | None
    ) -> AsyncIterator[Response]:
        url = URL(self._server + request.path, encoded=True).with_query(request.query or None)
        try:
            async with self._session.request(
                request.method,
                url,
                headers=request.headers,
                data=request.body,
                ssl=tls if tls is not None else True,
                server_hostname=server_name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=request.timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            ) as response:
                yield _HttpResponse(response, self._server)
        except TimeoutError as exc:
            limit = f"in {request.timeout_s:.0f} s" if request.timeout_s else "in time"
            raise DeadlineExceeded(
                f"API server {self._server} gave no answer {limit} to {request.method} {request.path}"
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _broken(self._server, exc) from exc

    async def close(self) -> None:
        await self._session.close()


def _broken(server: str, exc: Exception) -> Unavailable:
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            reason = str(exc.certificate_error)
        case aiohttp.ClientConnectorError():
            reason = exc.os_error.strerror or str(exc.os_error)
        case aiohttp.ClientPayloadError():
            reason = "the connection broke in the middle of an answer"
        case _:
            reason = str(exc) or type(exc).__name__
    return Unavailable(f"API server {server} cannot be reached: {clip(reason)}")


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Darwin names the idle time TCP_KEEPALIVE.
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
        if idle is not None:
            made.setsockopt(socket.IPPROTO_TCP, idle, KEEPALIVE_IDLE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
        if user_timeout is not None:
            made.setsockopt(socket.IPPROTO_TCP, user_timeout, UNACKNOWLEDGED_LIMIT_MS)
    except BaseException:
        made.close()
        raise
    return made
