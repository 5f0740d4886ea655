"""The helper's socket and the daemon's client of it, with a machine that a test plays."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from vzkubelet.errors import Conflict, Unavailable
from vzkubelet.machines.directory import listen
from vzkubelet.machines.vz import connections, protocol
from vzkubelet.machines.vz.client import Client
from vzkubelet.machines.vz.connections import Answer, Server
from vzkubelet.machines.vz.protocol import (
    Done,
    Failed,
    Fault,
    Hello,
    NetworkChanged,
    Request,
    Status,
    StatusReply,
    VMState,
)

STATUS = Status(state=VMState.RUNNING, pid=1)


class Machine:
    """Answers as a test tells it."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answer: Callable[[Request], Awaitable[Answer]] = self._done

    async def _done(self, request: Request) -> Answer:
        if isinstance(request, protocol.GetStatus):
            return Answer(StatusReply(id=request.id, status=STATUS))
        return Answer(Done(id=request.id))

    async def handle(self, request: Request) -> Answer:
        self.asked.append(request)
        return await self.answer(request)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


@pytest.fixture
async def server(machine: Machine, path: Path) -> AsyncIterator[Server]:
    hello = Hello(protocol=protocol.PROTOCOL_VERSION, pid=1, plan_digest="d", status=STATUS)
    crashes: list[BaseException] = []
    serving = Server(listen(path), lambda: hello, machine.handle)
    serving.start(crashes.append)
    yield serving
    await serving.close()
    assert not crashes


@pytest.fixture
async def client(server: Server, path: Path) -> AsyncIterator[Client]:
    connected = await Client.connect(path)
    yield connected
    connected.close()


async def test_only_the_owner_of_the_machine_may_connect(server: Server, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_slow_answer_holds_up_no_other(client: Client, machine: Machine) -> None:
    go = asyncio.Event()

    async def answer(request: Request) -> Answer:
        if isinstance(request, protocol.Start):
            await go.wait()
        return await machine._done(request)

    machine.answer = answer
    starting = asyncio.ensure_future(client.start())  # noqa: TID251 - two requests at once
    assert (await client.status()).state is VMState.RUNNING
    assert not starting.done()
    go.set()
    await starting


async def test_an_error_arrives_as_what_it_was(client: Client, machine: Machine) -> None:
    async def refuse(request: Request) -> Answer:
        return Answer(Failed(id=request.id, fault=Fault.of(Conflict("it is paused; resume it", reason="Paused"))))

    machine.answer = refuse
    with pytest.raises(Conflict, match="it is paused") as caught:
        await client.request_stop()
    assert caught.value.reason == "Paused"


async def test_a_descriptor_travels_with_its_reply_and_is_closed_here(client: Client, machine: Machine) -> None:
    ours, theirs = socket.socketpair()
    descriptor = theirs.detach()

    async def connect(request: Request) -> Answer:
        return Answer(Done(id=request.id), descriptor)

    machine.answer = connect
    with ours, await client.vsock_connect(8080) as passed:
        ours.sendall(b"from the guest")
        assert passed.recv(100) == b"from the guest"
    with pytest.raises(OSError):
        os.fstat(descriptor)


async def test_a_descriptor_for_a_client_that_has_gone_is_not_kept(
    client: Client, server: Server, machine: Machine
) -> None:
    ours, theirs = socket.socketpair()
    go, asked = asyncio.Event(), asyncio.Event()

    async def connect(request: Request) -> Answer:
        asked.set()
        await go.wait()
        return Answer(Done(id=request.id), theirs.detach())

    machine.answer = connect
    connecting = asyncio.ensure_future(client.vsock_connect(8080))  # noqa: TID251 - it never ends
    await asked.wait()
    client.close()
    with pytest.raises(Unavailable):
        await connecting
    go.set()
    ours.setblocking(False)
    with ours:
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b""  # every copy of the other end is closed


async def test_events_reach_every_client(server: Server, path: Path) -> None:
    clients = [await Client.connect(path) for _ in range(3)]
    server.broadcast(NetworkChanged(fault="gone", at=1.0))
    async with asyncio.timeout(10):
        assert [await one.network_change("") for one in clients] == ["gone"] * 3
    for one in clients:
        one.close()


async def test_a_client_that_does_not_read_is_cut_off_and_fills_no_memory(
    server: Server, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        while not server.clients:
            await asyncio.sleep(0)
        for _ in range(20):
            for _ in range(connections._BACKLOG_LIMIT):
                server.broadcast(NetworkChanged(fault="gone", at=1.0))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while server.clients:
                await asyncio.sleep(0)
    assert "does not read" in caplog.text


async def test_garbage_ends_a_connection_and_no_other(client: Client, path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as rude:
        rude.setblocking(False)
        await loop.sock_connect(rude, str(path))
        await loop.sock_sendall(rude, b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            while await loop.sock_recv(rude, 4096):
                pass
    assert (await client.status()).pid == 1


async def test_a_request_of_a_newer_daemon_is_answered(path: Path, server: Server) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as newer:
        newer.setblocking(False)
        await loop.sock_connect(newer, str(path))
        await loop.sock_sendall(newer, b'{"type":"attach-usb","id":5}\n')
        data = b""
        async with asyncio.timeout(10):
            while data.count(b"\n") < 2:
                data += await loop.sock_recv(newer, 4096)
    assert b'"type":"failed"' in data.splitlines()[1]
    assert b"Unsupported" in data.splitlines()[1]


async def test_answers_in_progress_are_delivered_before_the_end(
    client: Client, server: Server, machine: Machine
) -> None:
    asked = asyncio.Event()

    async def answer(request: Request) -> Answer:
        asked.set()
        await asyncio.sleep(0.05)
        return Answer(Done(id=request.id))

    machine.answer = answer
    killing = asyncio.ensure_future(client.kill())  # noqa: TID251 - closed while it runs
    await asked.wait()
    await server.close()
    await killing


async def test_what_was_asked_happens_although_the_client_has_gone(
    client: Client, server: Server, machine: Machine
) -> None:
    go, asked, happened = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Answer:
        asked.set()
        await go.wait()
        happened.set()
        return Answer(Done(id=request.id))

    machine.answer = answer
    starting = asyncio.ensure_future(client.start())  # noqa: TID251 - abandoned
    await asked.wait()
    client.close()
    with pytest.raises(Unavailable):
        await starting
    while server.clients:
        await asyncio.sleep(0)
    go.set()
    async with asyncio.timeout(10):
        await happened.wait()
