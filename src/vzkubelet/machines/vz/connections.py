"""The helper's socket: connections, their lines, and descriptors that travel with a reply.

Sockets are used bare, without transports: a descriptor can be sent only by sendmsg, together with the first byte of the
line it belongs to.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vzkubelet import aio
from vzkubelet.errors import ProtocolError, Unsupported
from vzkubelet.machines.vz import protocol
from vzkubelet.machines.vz.protocol import AnyRequest, Failed, Fault, LineDecoder, Message, Request

_log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_BACKLOG_LIMIT = 1000
"""Lines that may wait for a client that does not read; then it is cut off."""
_ACCEPT_RETRY_S = 1.0
_FLUSH_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and a descriptor that goes with it and is closed after it was sent."""

    reply: protocol.Reply
    descriptor: int | None = None

    def discard(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


Handler = Callable[[Request], Awaitable[Answer]]
"""Answers one request and raises nothing. Requests of a connection run side by side."""


class Connection:
    def __init__(self, peer: socket.socket, handle: Handler) -> None:
        self._peer = peer
        self._handle = handle
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._answers: set[asyncio.Task[None]] = set()
        self._writer = aio.spawn(self._write(), name="write to a client of the helper")

    async def serve(self) -> None:
        """Read until the client goes."""
        loop = asyncio.get_running_loop()
        decoder: LineDecoder[Request] = LineDecoder(Request)
        try:
            while data := await loop.sock_recv(self._peer, _READ_BYTES):
                for request in decoder.feed(data):
                    self._answer(request)
        except ProtocolError as exc:
            _log.warning("cutting off a client: %s", exc)
        except OSError as exc:
            _log.debug("a client has gone: %s", exc)

    def _answer(self, request: Request | AnyRequest) -> None:
        if isinstance(request, AnyRequest):
            fault = Fault.of(
                Unsupported(f"this helper does not know {request.type!r}; restart the machine to use a newer one")
            )
            self.send(Failed(id=request.id, fault=fault))
            return
        task = aio.spawn(self._reply(request), name=f"answer {type(request).__name__}")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _reply(self, request: Request) -> None:
        answer = await self._handle(request)
        if self._closing:
            answer.discard()
        else:
            self.send(answer.reply, answer.descriptor)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Queue a line; takes over the descriptor."""
        if self._closing or len(self._waiting) >= _BACKLOG_LIMIT:
            if not self._closing:
                _log.warning("cutting off a client that does not read")
                self._closing = True
                self._shut_down()
            if descriptor is not None:
                os.close(descriptor)
            return
        self._waiting.append((protocol.encode(message), descriptor))
        self._wake.set()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    async def _write(self) -> None:
        try:
            while True:
                while self._waiting:
                    await self._send_line(*self._waiting[0])
                    self._waiting.popleft()
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
        except OSError as exc:
            _log.debug("a client has gone: %s", exc)
            self._closing = True
            self._shut_down()

    async def _send_line(self, line: bytes, descriptor: int | None) -> None:
        loop = asyncio.get_running_loop()
        if descriptor is not None:
            await _send_descriptor(self._peer, line[:1], descriptor)
            os.close(descriptor)
            self._waiting[0] = (line[1:], None)
            line = line[1:]
        await loop.sock_sendall(self._peer, line)

    async def finish(self) -> None:
        """Let answers in progress come to their end and send what waits, as long as the client takes it."""
        if self._answers and not self._closing:
            await asyncio.wait(set(self._answers), timeout=_FLUSH_S)
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._writer}, timeout=_FLUSH_S)

    async def close(self) -> None:
        """Nothing more is sent; requests in progress go on. Closes everything also when it is cancelled meanwhile."""
        self._closing = True
        try:
            await aio.cancel(self._writer)
        finally:
            for _, descriptor in self._waiting:
                if descriptor is not None:
                    os.close(descriptor)
            self._waiting.clear()
            self._shut_down()
            self._peer.close()


async def _send_descriptor(peer: socket.socket, data: bytes, descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            socket.send_fds(peer, [data], [descriptor])
        except BlockingIOError:
            writable: asyncio.Future[None] = loop.create_future()
            loop.add_writer(peer, _settle, writable)
            try:
                await writable
            finally:
                loop.remove_writer(peer)
        else:
            return


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Server:
    """Accepts connections on a listening socket, which it owns."""

    def __init__(self, listener: socket.socket, hello: Callable[[], Message], handle: Handler) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._hello = hello
        self._handle = handle
        self._connections: set[Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self.on_client_change: Callable[[], None] = lambda: None

    def start(self, on_crash: Callable[[BaseException], None]) -> None:
        self._accepting = aio.spawn(self._accept(), name="accept clients of the helper", on_crash=on_crash)

    @property
    def clients(self) -> int:
        return len(self._connections)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._listener)
            except OSError as exc:  # no descriptors left, or a client that went at once
                _log.warning("cannot accept a client: %s", exc)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            connection = Connection(peer, self._handle)
            connection.send(self._hello())
            self._connections.add(connection)
            task = aio.spawn(self._serve(connection), name="serve a client of the helper")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            self.on_client_change()

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
            self.on_client_change()
            await connection.close()

    def broadcast(self, event: Message) -> None:
        for connection in self._connections:
            connection.send(event)

    async def close(self) -> None:
        """Deliver what waits and close everything; the socket's name is the caller's to remove."""
        await aio.cancel(self._accepting)
        self._listener.close()
        await asyncio.gather(*(connection.finish() for connection in self._connections))
        await aio.cancel(*self._serving)
