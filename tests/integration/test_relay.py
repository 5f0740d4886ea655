"""The relay itself: what it accepted ends with it."""

import asyncio
import gc

import pytest

from tests.integration.network_fault import Relay


@pytest.mark.filterwarnings("error")
async def test_a_connection_accepted_at_the_last_moment_is_not_left_open() -> None:
    async with Relay("127.0.0.1", 9) as relay:
        serve = relay._serve
        accepted = asyncio.Event()

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(reader, writer)
            accepted.set()

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await accepted.wait()
            # The task that relays has not had its first step yet.
            await relay.cut()
            transports = [found for found in gc.get_objects() if type(found).__name__ == "_SelectorSocketTransport"]
            await asyncio.sleep(0)
            assert [found for found in transports if found is not writer.transport and not found.is_closing()] == []
            writer.transport.abort()
