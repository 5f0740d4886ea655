"""The obligations of `ports.Guest` that hold for every guest, real or synthetic.

Programs are those that a synthetic guest understands. What only a real system can show is in
`test_guest_process.py` and `test_guest_exec.py`.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from tests.support.guest_fixtures import SYSTEMS, connect, fresh_id, make_system
from tests.support.guest_streams import MemoryLog, MemoryStreams
from tests.support.machine_worlds import SyntheticWorld, machine_image
from vzkubelet.aio import spawn
from vzkubelet.errors import NotFound
from vzkubelet.machines.synthetic import SyntheticDriver
from vzkubelet.machines.synthetic_guest import SyntheticGuests
from vzkubelet.ports import ExecRequest, ExitStatus, Guest, GuestProcess

Reconnect = Callable[[], Awaitable[Guest]]


@asynccontextmanager
async def ssh_channels(name: str, factory: pytest.TempPathFactory) -> AsyncIterator[Reconnect]:
    system = make_system(name, factory)
    system.start()
    async with AsyncExitStack() as stack:
        stack.callback(system.stop)

        async def channel() -> Guest:
            guest = await connect(system)
            stack.push_async_callback(guest.close)
            return guest

        yield channel


@asynccontextmanager
async def synthetic_channels(factory: pytest.TempPathFactory) -> AsyncIterator[Reconnect]:
    images = factory.mktemp("image")
    for name in ("disk.img", "aux.img"):
        (images / name).write_bytes(b"\0" * 4096)
    world = SyntheticWorld(factory.mktemp("machines"), machine_image(images))
    driver = await world.driver()
    await driver.create(world.spec("uid-1"))
    await driver.start("uid-1")

    async def channel() -> Guest:
        restarted = await world.driver()
        assert isinstance(restarted, SyntheticDriver)
        address = await restarted.address("uid-1")
        return await SyntheticGuests(restarted).connect(address, restarted.host_key("uid-1"), 10.0)

    yield channel
    await world.end()


@pytest_asyncio.fixture(params=[*SYSTEMS, "synthetic"])
async def reconnect(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Reconnect]:
    """Makes a new channel to one guest, as a restarted daemon does."""
    name = request.param
    channels = synthetic_channels(tmp_path_factory) if name == "synthetic" else ssh_channels(name, tmp_path_factory)
    async with channels as channel:
        yield channel


@pytest_asyncio.fixture
async def guest(reconnect: Reconnect) -> Guest:
    return await reconnect()


def process(*argv: str) -> GuestProcess:
    return GuestProcess(fresh_id(), argv, (("PATH", "/usr/bin:/bin"),))


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_a_process_ends_with_its_exit_code(guest: Guest, code: int) -> None:
    started = process("sh", "-c", f"exit {code}")
    await guest.start(started)
    assert (await guest.follow(started.id, MemoryLog())).code == code


async def test_follow_returns_when_the_process_has_ended_and_not_before(guest: Guest) -> None:
    started = process("sleep", "1")
    await guest.start(started)
    begun = time.monotonic()
    assert await guest.follow(started.id, MemoryLog()) == ExitStatus(0)
    assert 0.5 < time.monotonic() - begun < 3


async def test_starting_an_id_again_launches_nothing(guest: Guest) -> None:
    started = process("sleep", "30")
    await guest.start(started)
    await guest.start(started)
    await guest.signal(started.id, 9)
    assert (await guest.follow(started.id, MemoryLog())).code == 137
    await guest.start(started)
    assert (await guest.follow(started.id, MemoryLog())).code == 137


async def test_a_new_channel_finds_the_process_of_an_earlier_one(reconnect: Reconnect) -> None:
    first = await reconnect()
    started = process("sh", "-c", "sleep 1; exit 7")
    await first.start(started)
    await first.close()
    second = await reconnect()
    assert (await second.follow(started.id, MemoryLog())).code == 7
    third = await reconnect()
    assert (await third.follow(started.id, MemoryLog())).code == 7


@pytest.mark.parametrize("number", [15, 9])
async def test_a_signal_ends_the_process_with_128_and_its_number(guest: Guest, number: int) -> None:
    started = process("sleep", "30")
    await guest.start(started)
    following = spawn(guest.follow(started.id, MemoryLog()), name="follow")
    await guest.signal(started.id, number)
    assert await following == ExitStatus(128 + number, number)


async def test_signalling_a_process_that_has_ended_is_not_found(guest: Guest) -> None:
    started = process("true")
    await guest.start(started)
    await guest.follow(started.id, MemoryLog())
    with pytest.raises(NotFound):
        await guest.signal(started.id, 15)


async def test_an_unknown_process_is_not_found(guest: Guest) -> None:
    with pytest.raises(NotFound):
        await guest.follow("never-started", MemoryLog())
    with pytest.raises(NotFound):
        await guest.signal("never-started", 15)


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
async def test_exec_returns_the_exit_code(guest: Guest, code: int) -> None:
    beside = process("sleep", "30")
    await guest.start(beside)
    status = await guest.exec(ExecRequest(("sh", "-c", f"exit {code}")), beside, MemoryStreams())
    assert status.code == code


async def test_usage_is_never_zero(guest: Guest) -> None:
    usage = await guest.usage()
    assert usage.cpu_ns > 0
    assert 0 < usage.memory_available_bytes <= usage.memory_total_bytes
    assert 0 < usage.disk_used_bytes <= usage.disk_total_bytes


async def test_preparing_twice_does_nothing_more(guest: Guest) -> None:
    await guest.prepare("a-pod", [])
    await guest.prepare("a-pod", [])
