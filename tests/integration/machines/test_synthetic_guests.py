"""Processes of synthetic guests, over restarts of the daemon too."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.machine_worlds import SyntheticWorld, machine_image
from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, NotFound, Unavailable
from vzkubelet.machines.synthetic import SyntheticDriver
from vzkubelet.machines.synthetic_guest import SyntheticGuests
from vzkubelet.ports import ExitStatus, Guest, GuestAddress, GuestProcess, OutputStream

UID = "u1"


class Log:
    def __init__(self) -> None:
        self.data = dict.fromkeys(OutputStream, b"")

    def received_bytes(self, stream: OutputStream) -> int:
        return len(self.data[stream])

    def append(self, stream: OutputStream, data: bytes) -> None:
        self.data[stream] += data


@pytest.fixture
def world(tmp_path: Path) -> SyntheticWorld:
    for name in ("disk.img", "aux.img"):
        (tmp_path / name).write_bytes(b"")
    return SyntheticWorld(tmp_path / "machines", machine_image(tmp_path))


async def guest_of(world: SyntheticWorld, *, start: bool = False) -> tuple[SyntheticDriver, Guest]:
    driver = await world.driver()
    assert isinstance(driver, SyntheticDriver)
    if start:
        await driver.create(world.spec(UID))
        await driver.start(UID)
    return driver, await SyntheticGuests(driver).connect(await driver.address(UID), driver.host_key(UID), 1.0)


def process(*argv: str) -> GuestProcess:
    return GuestProcess("p1", argv)


async def test_a_process_ends_with_its_code(world: SyntheticWorld) -> None:
    _, guest = await guest_of(world, start=True)
    await guest.prepare("host", ())
    await guest.start(process("sh", "-c", "sleep 0.2; exit 3"))
    began = time.monotonic()
    assert await guest.follow("p1", Log()) == ExitStatus(3)
    assert time.monotonic() - began > 0.1


async def test_starting_it_again_starts_nothing(world: SyntheticWorld) -> None:
    _, guest = await guest_of(world, start=True)
    await guest.start(process("exit", "3"))
    await guest.start(replace(process("exit", "4")))
    assert await guest.follow("p1", Log()) == ExitStatus(3)


async def test_a_later_daemon_sees_the_same_end(world: SyntheticWorld) -> None:
    _, guest = await guest_of(world, start=True)
    await guest.start(process("false"))
    _, guest = await guest_of(world)
    assert await guest.follow("p1", Log()) == ExitStatus(1)


async def test_a_signal_over_another_channel_ends_what_is_followed(world: SyntheticWorld) -> None:
    driver, _ = await guest_of(world, start=True)
    guests = SyntheticGuests(driver)
    one, two = [await guests.connect(await driver.address(UID), driver.host_key(UID), 1.0) for _ in range(2)]
    await one.start(process("nginx"))
    log = Log()
    following = aio.spawn(one.follow("p1", log), name="follow")
    await asyncio.sleep(0.05)
    await two.signal("p1", 15)
    async with asyncio.timeout(5):
        assert await following == ExitStatus(143, 15)
    assert b"not understood" in log.data[OutputStream.STDERR]
    with pytest.raises(NotFound):
        await two.signal("p1", 15)


async def test_following_ends_when_the_machine_does(world: SyntheticWorld) -> None:
    driver, guest = await guest_of(world, start=True)
    await guest.start(process("sleep", "infinity"))
    following = aio.spawn(guest.follow("p1", Log()), name="follow", on_crash=lambda _: None)
    await asyncio.sleep(0.05)
    await driver.kill(UID)
    with pytest.raises(Unavailable):
        await following


async def test_a_guest_can_shut_itself_down(world: SyntheticWorld) -> None:
    driver, guest = await guest_of(world, start=True)
    await guest.shut_down()
    async with asyncio.timeout(5):
        assert (await driver.wait(UID)).fault == ""


async def test_nobody_answers_at_an_unknown_address(world: SyntheticWorld, tmp_path: Path) -> None:
    driver, _ = await guest_of(world, start=True)
    with pytest.raises(DeadlineExceeded):
        await SyntheticGuests(driver).connect(GuestAddress("198.19.0.9", "198.19.0.9"), tmp_path, 0.1)
