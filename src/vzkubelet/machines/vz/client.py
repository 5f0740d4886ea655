"""One connection of the daemon to a machine's helper: requests answered in any order, events, passed descriptors."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, assert_never

from vzkubelet.errors import DeadlineExceeded, ProtocolError, Unavailable, Unsupported
from vzkubelet.machines.directory import reachable_socket_path
from vzkubelet.machines.vz import protocol
from vzkubelet.machines.vz.plan import SharedDirectory

_log = logging.getLogger(__name__)

CONNECT_S = 5.0
REQUEST_S = 60.0
_READ_BYTES = 65536
_DESCRIPTORS = 4
_CHANGES = 16
"""Of the network that wait to be heard; of more the newest say enough."""

_Decoder = protocol.LineDecoder[protocol.FromHelper]


class HelperLost(Unavailable):
    """Nobody answers, or no longer; told apart from what a helper that lives says is unavailable."""


class Client:
    """Made by `connect`. `hello` tells what is on the other side."""

    def __init__(self, connection: socket.socket, what: str) -> None:
        self._connection = connection
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._decoder = _Decoder(protocol.FromHelper)
        self._replies: dict[int, asyncio.Future[protocol.Reply]] = {}
        self._ids = itertools.count(1)
        self._descriptors: deque[int] = deque()
        self._sending = asyncio.Lock()
        self._greeted: asyncio.Future[protocol.Hello] = self._loop.create_future()
        self._lost: Exception | None = None
        self._network_faults: deque[str] = deque(maxlen=_CHANGES)
        self._told = asyncio.Event()

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = CONNECT_S) -> Self:
        """Connect to the helper that serves `path` and hear its hello.

        Raises: HelperLost (nobody there, or it ended meanwhile), DeadlineExceeded, Unsupported (another protocol),
        RemoteProtocolError.
        """
        what = f"the helper of machine {path.parent.name}"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        client = cls(connection, what)
        try:
            async with asyncio.timeout(timeout_s):
                with reachable_socket_path(path) as name:
                    await client._loop.sock_connect(connection, name)
                client._loop.add_reader(connection, client._readable)
                client._check(await client.hello())
        except TimeoutError as exc:
            client.close()
            raise DeadlineExceeded(f"{what} did not greet within {timeout_s:.0f} s") from exc
        except OSError as exc:
            client.close()
            raise HelperLost(f"{what} cannot be reached: {exc.strerror or exc}") from exc
        except BaseException:
            client.close()
            raise
        return client

    def _check(self, hello: protocol.Hello) -> None:
        if hello.protocol != protocol.PROTOCOL_VERSION:
            raise Unsupported(
                f"{self._what} speaks version {hello.protocol} of its protocol and this agent "
                f"{protocol.PROTOCOL_VERSION}: its guest can go on or be deleted, nothing else"
            )

    async def hello(self) -> protocol.Hello:
        """Raises HelperLost, RemoteProtocolError."""
        return await asyncio.shield(self._greeted)

    async def network_change(self, known: str) -> str:
        """Wait until the guest's network has another fault than `known`; empty when it is there. For one caller, who
        hears of each fault, however short it was.

        Raises HelperLost, RemoteProtocolError.
        """
        while True:
            if self._lost is not None:
                raise self._lost
            while self._network_faults:
                if (fault := self._network_faults.popleft()) != known:
                    return fault
            self._told.clear()
            await self._told.wait()

    def close(self) -> None:
        """Let go; the helper goes on. Who waits for a reply hears HelperLost."""
        self._lose(HelperLost(f"{self._what}: the connection was closed"))

    # --- Requests ----------------------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float = REQUEST_S) -> None:
        """Start the guest; the helper ends when it cannot. Raises whatever of `errors` the helper found."""
        await self._done(protocol.Start(id=next(self._ids)), timeout_s)

    async def request_stop(self) -> None:
        await self._done(protocol.RequestStop(id=next(self._ids)))

    async def kill(self, *, timeout_s: float = REQUEST_S) -> None:
        await self._done(protocol.Kill(id=next(self._ids)), timeout_s)

    async def pause(self) -> None:
        await self._done(protocol.Pause(id=next(self._ids)))

    async def resume(self) -> None:
        await self._done(protocol.Resume(id=next(self._ids)))

    async def save(self, path: Path, *, timeout_s: float = 10 * REQUEST_S) -> None:
        """The guest's memory goes to disk: bound by its size."""
        await self._done(protocol.Save(id=next(self._ids), path=str(path)), timeout_s)

    async def restore(self, path: Path, *, timeout_s: float = 10 * REQUEST_S) -> None:
        await self._done(protocol.Restore(id=next(self._ids), path=str(path)), timeout_s)

    async def set_share(self, tag: str, directories: tuple[SharedDirectory, ...]) -> None:
        await self._done(protocol.SetShare(id=next(self._ids), tag=tag, directories=directories))

    async def set_balloon(self, target_bytes: int) -> None:
        await self._done(protocol.SetBalloon(id=next(self._ids), target_bytes=target_bytes))

    async def status(self) -> protocol.Status:
        reply = await self._ask(protocol.GetStatus(id=next(self._ids)), REQUEST_S)
        if not isinstance(reply, protocol.StatusReply):
            raise ProtocolError(f"{self._what} answered a question for its status with {type(reply).__name__}")
        return reply.status

    async def vsock_connect(self, port: int, *, timeout_s: float = CONNECT_S) -> socket.socket:
        """A connection to a port in the guest; the caller closes it. One at a time: make a client for each."""
        await self._done(protocol.VsockConnect(id=next(self._ids), port=port), timeout_s)
        if not self._descriptors:
            raise ProtocolError(f"{self._what} sent no descriptor with a connection to port {port}")
        return socket.socket(fileno=self._descriptors.popleft())

    async def _done(self, request: protocol.Request, timeout_s: float = REQUEST_S) -> None:
        await self._ask(request, timeout_s)

    async def _ask(self, request: protocol.Request, timeout_s: float) -> protocol.Reply:
        if self._lost is not None:
            raise self._lost
        reply: asyncio.Future[protocol.Reply] = self._loop.create_future()
        self._replies[request.id] = reply
        name = type(request).__name__
        try:
            async with asyncio.timeout(timeout_s):
                async with self._sending:
                    await self._loop.sock_sendall(self._connection, protocol.encode(request))
                answer = await reply
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self._what} did not answer {name} within {timeout_s:.0f} s") from exc
        except OSError as exc:
            raise HelperLost(f"{self._what} ended before it could be asked: {exc.strerror or exc}") from exc
        finally:
            self._replies.pop(request.id, None)
        if isinstance(answer, protocol.Failed):
            raise answer.fault.error()
        return answer

    # --- What comes in -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, _READ_BYTES, _DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose(HelperLost(f"{self._what} was lost: {exc.strerror or exc}"))
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        if not data:
            self._lose(HelperLost(f"{self._what} has ended"))
            return
        try:
            for message in self._decoder.feed(data):
                self._take(message)
        except ProtocolError as exc:
            self._lose(exc)

    def _take(self, message: protocol.FromHelper | protocol.AnyRequest) -> None:
        match message:
            case protocol.Done() | protocol.StatusReply() | protocol.Failed():
                reply = self._replies.get(message.id)
                if reply is not None and not reply.done():
                    reply.set_result(message)
            case protocol.AnyRequest():
                _log.debug("%s says what this agent does not know: %s", self._what, message.type)
            case protocol.Hello():
                self._network_faults.append(message.status.network_fault)
                if not self._greeted.done():
                    self._greeted.set_result(message)
            case protocol.NetworkChanged():
                self._network_faults.append(message.fault)
                self._told.set()
            case _:
                assert_never(message)

    def _lose(self, reason: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._loop.remove_reader(self._connection)
        self._connection.close()
        futures: list[asyncio.Future[Any]] = [self._greeted, *self._replies.values()]
        for future in futures:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # whoever waits hears of it; nobody has to
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._told.set()


@contextlib.contextmanager
def closing(client: Client) -> Iterator[Client]:
    """The client for the length of a block."""
    try:
        yield client
    finally:
        client.close()
