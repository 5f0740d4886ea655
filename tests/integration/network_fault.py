"""A TCP relay on loopback that a test can cut or let go silent."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from vzkubelet import aio


class Relay:
    """Between a client and `host:port`. `cut` drops everything and refuses; `silence` keeps connections and delivers
    nothing; `mend` ends both for new connections."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._refusing = False
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await aio.cancel(*self._tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        self._refusing = True
        await aio.cancel(*self._tasks)

    def silence(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._refusing = False
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        task = aio.spawn(self._relay(reader, writer), name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not at the end of the relaying: a task that is cancelled before its first step never gets there.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        both = [
            aio.spawn(self._copy(reader, far_writer), name="relay up"),
            aio.spawn(self._copy(far_reader, writer), name="relay down"),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await aio.cancel(*both)
            far_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
