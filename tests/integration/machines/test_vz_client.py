"""The daemon's side of a helper's socket, against helpers that are not what they should be."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from vzkubelet import aio, errors
from vzkubelet.machines.vz import protocol
from vzkubelet.machines.vz.client import Client, closing

HELLO = protocol.Hello(
    protocol=protocol.PROTOCOL_VERSION,
    pid=7,
    plan_digest="d",
    status=protocol.Status(state=protocol.VMState.STOPPED, pid=7),
)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def helper(path: Path, serve: Serve) -> AsyncIterator[Path]:
    """A helper that does `serve` with each connection and then closes it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    place = path / "helper.sock"
    server = await asyncio.start_unix_server(connected, os.path.relpath(place))
    try:
        yield place
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def request(line: bytes) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(line)
    return decoded


async def test_replies_are_told_apart_by_their_number(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(HELLO))
        numbers = [request(await reader.readline())["id"] for _ in range(2)]
        assert isinstance(numbers[0], int)
        assert isinstance(numbers[1], int)
        fault = protocol.Fault(kind="Conflict", message="no", reason="InvalidVirtualMachineState")
        writer.write(protocol.encode(protocol.Failed(id=numbers[1], fault=fault)))
        writer.write(b'{"type": "news-of-a-later-version", "id": 99}\n')
        writer.write(protocol.encode(protocol.Done(id=numbers[0])))
        await reader.read()

    async with helper(tmp_path, serve) as path:
        with closing(await Client.connect(path)) as client:
            first = aio.spawn(client.pause(), name="first")
            await asyncio.sleep(0)
            with pytest.raises(errors.Conflict) as caught:
                await client.resume()
            assert caught.value.reason == "InvalidVirtualMachineState"
            await first


async def test_a_helper_of_another_protocol_is_left_alone(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(msgspec.structs.replace(HELLO, protocol=protocol.PROTOCOL_VERSION + 1)))
        assert await reader.read() == b"", "nothing is said to it"

    async with helper(tmp_path, serve) as path:
        with pytest.raises(errors.Unsupported, match=r"version 2 .* go on or be deleted"):
            await Client.connect(path)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="cannot be reached"):
        await Client.connect(tmp_path / "helper.sock")


async def test_a_helper_that_says_nothing(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with helper(tmp_path, serve) as path:
        with pytest.raises(errors.DeadlineExceeded, match="did not greet"):
            await Client.connect(path, timeout_s=0.1)


async def test_a_helper_that_ends_amidst_a_question(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(HELLO))
        await reader.readline()

    async with helper(tmp_path, serve) as path:
        with closing(await Client.connect(path)) as client:
            with pytest.raises(errors.Unavailable, match="has ended"):
                await client.start()
            with pytest.raises(errors.Unavailable):
                await client.status()
            with pytest.raises(errors.Error):
                await client.network_change("")


async def test_a_question_that_is_not_answered(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(HELLO))
        await reader.read()

    async with helper(tmp_path, serve) as path:
        client = await Client.connect(path)
        with closing(client), pytest.raises(errors.DeadlineExceeded, match="did not answer Kill within 0 s"):
            await client.kill(timeout_s=0.05)


async def test_what_is_no_message_ends_the_connection(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(HELLO))
        await reader.readline()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()

    async with helper(tmp_path, serve) as path:
        with closing(await Client.connect(path)) as client:
            with pytest.raises(errors.RemoteProtocolError):
                await client.start()
            with pytest.raises(errors.Error):
                await client.network_change("")


async def test_a_change_of_the_network_is_told_in_whatever_pieces_it_comes(tmp_path: Path) -> None:
    status = msgspec.structs.replace(HELLO.status, network_fault="gone before")
    hello = protocol.encode(msgspec.structs.replace(HELLO, status=status))
    said = b'{"type":"of-a-newer-helper","at":1.0}\n' + protocol.encode(protocol.NetworkChanged(fault="", at=1.0))
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        await go_on.wait()
        for byte in said:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with helper(tmp_path, serve) as path:
        with closing(await Client.connect(path)) as client:
            async with asyncio.timeout(5):
                assert await client.network_change("") == "gone before"
                go_on.set()
                assert await client.network_change("gone before") == ""
                with pytest.raises(errors.Unavailable, match="has ended"):
                    await client.network_change("")


async def test_a_connection_into_the_guest_comes_as_a_descriptor(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.encode(HELLO))
        await writer.drain()
        number = request(await reader.readline())["id"]
        assert isinstance(number, int)
        raw = writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(raw.fileno())) as connection:
            socket.send_fds(connection, [protocol.encode(protocol.Done(id=number))], [theirs.fileno()])
        theirs.close()
        await reader.read()

    async with helper(tmp_path, serve) as path:
        with closing(await Client.connect(path)) as client:
            guest = await client.vsock_connect(8080)
        with guest, ours:
            assert not guest.get_inheritable()
            guest.sendall(b"hello")
            assert ours.recv(5) == b"hello"


async def test_a_descriptor_that_nobody_wanted_is_closed(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        raw = writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(raw.fileno())) as connection:
            socket.send_fds(connection, [protocol.encode(HELLO)], [theirs.fileno()])
        theirs.close()
        await reader.read()

    async with helper(tmp_path, serve) as path:
        (await Client.connect(path)).close()
        with ours:
            ours.settimeout(5)
            assert await asyncio.to_thread(ours.recv, 1) == b"", "no copy of the other end is open"
