"""A TCP relay on loopback that counts what clients send."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from vzkubelet.aio import cancel, spawn

_BUFFER_BYTES = 256 * 1024


class CountingRelay:
    """Relays a free loopback port to `host:port` while entered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent_bytes = 0
        """By clients, heads of requests included."""
        self.cuts: list[int] = []
        """When clients have sent that much in all, every connection breaks, once for each."""
        self._changed = asyncio.Condition()
        self._relays: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._break()
        await cancel(*self._relays)
        await self._server.wait_closed()

    async def reached(self, sent_bytes: int) -> None:
        """Until clients have sent that much."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.sent_bytes >= sent_bytes)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        writers = {writer}
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
                writers.add(up_writer)
                self._writers.add(up_writer)
                back = spawn(self._answers(up_reader, writer), name="relay back", on_crash=lambda _: None)
                self._relays.add(back)
                await self._copy(reader, up_writer, counted=True)
                up_writer.write_eof()  # what a client has sent reaches the registry also when the client is dead
                await back
        finally:
            for opened in writers:
                opened.transport.abort()
            self._writers -= writers
            await asyncio.sleep(0)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._copy(reader, writer, counted=False)
        writer.close()  # a client is told that its registry has gone

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BUFFER_BYTES):
                writer.write(data)
                await writer.drain()
                if counted:
                    await self._count(len(data))

    async def _count(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes
        if self.cuts and self.sent_bytes >= self.cuts[0]:
            del self.cuts[0]
            self._break()
        async with self._changed:
            self._changed.notify_all()
