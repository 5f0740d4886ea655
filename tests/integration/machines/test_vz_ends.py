"""How helpers are ended: their guest is stopped first, and whoever gave a start up goes on only when that is done."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.apple_double import MacHost
from tests.support.vz_world import VzWorld, ending, vz_image
from vzkubelet import aio
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.process import Launch, exit_of, launch, owned, terminate
from vzkubelet.machines.vz.driver import VzDriver
from vzkubelet.ports import MachineDriver, MachinePhase, MachineSpec

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
WAIT_S = 30.0
DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.support.apple_double import MacHost
from tests.support.vz_world import VzWorld, ending, vz_image

async def main(root, image, mac):
    world = VzWorld(Path(root), vz_image(Path(image)), MacHost(Path(mac), version=[15, 1]))
    driver = await world.driver()
    await driver.create(world.spec({uid!r}))
    await driver.start({uid!r})

asyncio.run(main(*sys.argv[1:]))
""".replace("{uid!r}", repr(UID))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[VzWorld]:
    mac = MacHost(tmp_path / "mac", version=[15, 1])
    async with ending(VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac)) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def operations(world: VzWorld) -> list[str]:
    return [call["operation"] for call in world.mac.calls() if call["error"] is None]


async def starting(world: VzWorld, driver: MachineDriver) -> "asyncio.Task[None]":
    """A start in the midst of which the framework is: it holds a slot of the host already."""
    await driver.create(world.spec(UID))
    world.mac.fail("start", delay_s=1.5)
    start = aio.spawn(driver.start(UID), name="start", on_crash=lambda _: None)
    await until(lambda: bool(world.mac.running()) or start.done())
    assert not start.done()
    return start


async def test_a_cancelled_start_stops_its_guest_so_that_its_slot_comes_back(world: VzWorld) -> None:
    driver = await world.driver()
    start = await starting(world, driver)
    await aio.cancel(start)
    assert operations(world) == ["start", "stop"]
    assert owned(world.root) == []
    assert (await driver.status(UID)).phase is MachinePhase.CREATED
    await driver.start(UID)


async def test_a_start_cancelled_twice_is_undone_before_its_caller_goes_on(world: VzWorld) -> None:
    driver = await world.driver()
    start = await starting(world, driver)
    for _ in range(3):
        start.cancel()
        await asyncio.sleep(0.05)
    assert not start.done(), "the guest still starts and cannot be stopped yet"
    await asyncio.wait({start})
    assert start.cancelled()
    assert owned(world.root) == []
    assert operations(world) == ["start", "stop"]


async def test_a_guest_whose_daemon_was_killed_in_its_start_is_stopped_at_adoption(world: VzWorld) -> None:
    world.mac.fail("start", delay_s=1.5)
    command = [sys.executable, "-c", DAEMON, str(world.root), str(world.image.disk.parent), str(world.mac.directory)]
    daemon = subprocess.Popen(command)
    try:
        await until(lambda: bool(world.mac.running()))
    finally:
        daemon.kill()
        daemon.wait()
    driver = await world.driver()
    assert operations(world) == ["start", "stop"]
    assert owned(world.root) == []
    assert (await driver.status(UID)).phase is MachinePhase.CREATED
    await driver.delete(UID)


async def test_a_guest_whose_machine_is_gone_is_stopped_at_adoption(world: VzWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    await driver.start(UID)
    await driver.close()
    path = world.root / UID
    moved = world.root.parent / "moved"
    path.rename(moved)
    await world.driver()
    assert operations(world) == ["start", "stop"]
    assert world.leftovers() == [], "a dying helper makes no directory"


async def test_a_creation_cancelled_twice_is_taken_back_before_its_caller_goes_on(
    world: VzWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone comes to its end too late to notice that it was given up."""
    go_on, reached, fill = threading.Event(), threading.Event(), VzDriver._fill

    def filled(self: VzDriver, directory: MachineDirectory, spec: MachineSpec, abort: threading.Event) -> None:
        fill(self, directory, spec, threading.Event())
        reached.set()
        go_on.wait(WAIT_S)

    monkeypatch.setattr(VzDriver, "_fill", filled)
    driver = await world.driver()
    creation = aio.spawn(driver.create(world.spec(UID)), name="create", on_crash=lambda _: None)
    try:
        await until(reached.is_set)
        for _ in range(3):
            creation.cancel()
            await asyncio.sleep(0.02)
        assert not creation.done()
    finally:
        go_on.set()
    await asyncio.wait({creation})
    assert creation.cancelled()
    assert world.leftovers() == []


async def test_everybody_who_waits_for_a_process_hears_its_exit_status(tmp_path: Path) -> None:
    """The kernel tells it once."""
    what = Launch(["/bin/sh", "-c", "exit 7"], tmp_path, "sh", tmp_path, tmp_path / "log")
    process = launch(what)
    assert await asyncio.gather(*(exit_of(process) for _ in range(3))) == [7, 7, 7]
    assert await exit_of(process) == 7


async def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; touch ready; sleep 100 & wait; wait"
    process = launch(Launch(["/bin/sh", "-c", script], tmp_path, "sh", tmp_path, tmp_path / "log"))
    await until((tmp_path / "ready").exists)
    try:
        assert await terminate([process], 0.2) == [process]
        assert await exit_of(process) == -9
    finally:
        await terminate([found.ref for found in owned(tmp_path)], 1.0)
