"""A guest of the vz driver that loses its network: the daemon hears of it, whichever daemon that is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest_asyncio

from tests.support.apple_double import MacHost
from tests.support.vz_world import VzWorld, ending, vz_image
from vzkubelet import aio

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
WAIT_S = 30.0


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[VzWorld]:
    mac = MacHost(tmp_path / "mac", version=[15, 1])
    async with ending(VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac)) as made:
        yield made


async def test_a_network_that_breaks_for_a_moment_is_told_and_that_it_is_back(world: VzWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    assert await driver.network_change(UID, "") is None, "it does not run"
    await driver.start(UID)
    async with asyncio.timeout(WAIT_S):
        await asyncio.to_thread(world.mac.tell, world.machine_state(UID).mac, "disconnect")
        fault = await driver.network_change(UID, "")  # asked for when it is over, maybe: it is told all the same
        assert fault
        assert await driver.network_change(UID, fault) == ""
        ended = aio.spawn(driver.network_change(UID, ""), name="end")
        await driver.kill(UID)
        assert await ended is None


async def test_a_network_that_is_gone_for_good_is_told_to_the_next_daemon(tmp_path: Path) -> None:
    mac = MacHost(tmp_path / "mac", version=[15, 1])
    flags = {"vz-packet-filter": "/bin/sleep 600"}
    made = VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac, flags)
    try:
        driver = await made.driver()
        await driver.create(made.spec(UID))
        await driver.start(UID)
        for child in psutil.Process(made.helper_pid(UID)).children(recursive=True):
            if child.name() == "sleep":
                child.kill()
        async with asyncio.timeout(WAIT_S):
            fault = await driver.network_change(UID, "")
            assert fault is not None
            assert "delete the pod" in fault
            assert await (await made.driver()).network_change(UID, "") == fault
    finally:
        await made.end()
    assert made.leftovers() == []
