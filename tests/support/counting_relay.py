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
        self._changed = asyncio.Condition()
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
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
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
            back = spawn(self._copy(up_reader, writer, counted=False), name="relay back", on_crash=lambda _: None)
            try:
                await self._copy(reader, up_writer, counted=True)
            finally:
                # What the client has sent reaches the registry also when the client is dead.
                up_writer.close()
                with contextlib.suppress(OSError):
                    await up_writer.wait_closed()
                await cancel(back)
                writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BUFFER_BYTES):
                writer.write(data)
                await writer.drain()
                if counted:
                    self.sent_bytes += len(data)
                    async with self._changed:
                        self._changed.notify_all()
