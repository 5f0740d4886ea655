"""The obligations of `ports.MachineDriver`, checked on every driver.

Most tests never wait for the guest: a machine runs as soon as its hypervisor does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from tests.support.apple_double import MacHost
from tests.support.machine_worlds import BOOT_TIMEOUT_S, MachineWorld, QemuWorld, SyntheticWorld, machine_image
from tests.support.vz_world import VzWorld, vz_image
from vzkubelet import aio
from vzkubelet.config.settings import GuestNetwork
from vzkubelet.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from vzkubelet.ports import MachineDriver, MachinePhase, MachineStatus

T = TypeVar("T")
UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
OTHER = "7f1d2c3b-0000-4000-8000-000000000002"


@pytest_asyncio.fixture(
    params=["synthetic", "qemu-user", "qemu-bridge", "vz-13-darwin", "vz-14-linux", "vz-15-linux", "vz-26-darwin"]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path, guest_directory: Path) -> AsyncIterator[MachineWorld]:
    root = tmp_path / "machines"
    match request.param.split("-"):
        case ["vz", version, system]:
            mac = MacHost(tmp_path / "mac", version=[int(version), 0])
            made: MachineWorld = VzWorld(root, vz_image(tmp_path / "image", system), mac)
        case ["qemu", network]:
            made = QemuWorld(root, machine_image(guest_directory), GuestNetwork(network))
        case _:
            made = SyntheticWorld(root, machine_image(guest_directory))
    before = made.image_digest()
    try:
        yield made
    finally:
        await made.end()
    assert made.leftovers() == []
    assert made.image_digest() == before, "the image was written to"
    if isinstance(made, QemuWorld):
        assert made.network_leftovers() == []
    if isinstance(made, VzWorld):
        assert made.host_leftovers() == []


async def stopped(driver: MachineDriver, uid: str = UID) -> MachineStatus:
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        return await driver.wait(uid)


def started(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The call in a task of its own; its failure is the test's to judge."""
    return aio.spawn(call, name="call", on_crash=lambda _: None)


async def phase(driver: MachineDriver, uid: str = UID) -> MachinePhase:
    return (await driver.status(uid)).phase


async def running(world: MachineWorld, uid: str = UID) -> MachineDriver:
    driver = await world.driver()
    await driver.create(world.spec(uid))
    await driver.start(uid)
    return driver


# --- create ------------------------------------------------------------------------------------------------------


async def test_a_created_machine_exists_and_was_never_started(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    assert list(await driver.machines()) == [UID]
    assert await driver.status(UID) == MachineStatus(MachinePhase.CREATED)


async def test_creating_a_machine_twice_is_refused(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    with pytest.raises(AlreadyExists):
        await driver.create(world.spec(UID))
    assert list(await driver.machines()) == [UID]


async def test_two_creations_at_once_make_one_machine(world: MachineWorld) -> None:
    driver = await world.driver()
    results = await asyncio.gather(*(driver.create(world.spec(UID)) for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [AlreadyExists] * 3
    await driver.start(UID)


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.005, 0.02])
async def test_a_cancelled_creation_leaves_nothing_and_can_be_repeated(world: MachineWorld, delay_s: float) -> None:
    driver = await world.driver()
    creation = started(driver.create(world.spec(UID)))
    await asyncio.sleep(delay_s)
    if creation.cancel():
        with pytest.raises(asyncio.CancelledError):
            await creation
        assert world.leftovers() == []
        await driver.create(world.spec(UID))
    assert await phase(driver) is MachinePhase.CREATED


async def test_a_creation_that_fails_leaves_nothing(world: MachineWorld) -> None:
    driver = await world.driver()
    with pytest.raises(InvalidInput):
        await driver.create(replace(world.spec(UID), cpus=100_000))
    with pytest.raises(InvalidInput):
        await driver.create(replace(world.spec(UID), memory_bytes=1 << 60))
    with pytest.raises(InvalidInput):
        await driver.create(world.spec("../escape"))
    assert list(await driver.machines()) == []
    assert world.leftovers() == []


# --- start -------------------------------------------------------------------------------------------------------


async def test_a_started_machine_runs(world: MachineWorld) -> None:
    before = time.time()
    driver = await running(world)
    status = await driver.status(UID)
    assert status.phase is MachinePhase.RUNNING
    assert status.started_at is not None
    assert before <= status.started_at <= time.time()
    assert status.stopped_at is None


async def test_starting_a_running_machine_is_refused(world: MachineWorld) -> None:
    driver = await running(world)
    before = await driver.status(UID)
    with pytest.raises(Conflict):
        await driver.start(UID)
    assert await driver.status(UID) == before


async def test_concurrent_starts_run_one_machine(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    results = await asyncio.gather(*(driver.start(UID) for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [Conflict] * 3
    assert await phase(driver) is MachinePhase.RUNNING


async def test_a_stopped_machine_starts_again(world: MachineWorld) -> None:
    driver = await running(world)
    first = await driver.status(UID)
    await driver.kill(UID)
    await driver.start(UID)
    again = await driver.status(UID)
    assert again.phase is MachinePhase.RUNNING
    assert again.started_at is not None
    assert first.started_at is not None
    assert again.started_at > first.started_at
    assert (again.stopped_at, again.fault) == (None, "")


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.06])
async def test_a_cancelled_start_leaves_no_process_and_can_be_repeated(world: MachineWorld, delay_s: float) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    start = started(driver.start(UID))
    await asyncio.sleep(delay_s)
    if start.cancel():
        with pytest.raises(asyncio.CancelledError):
            await start
        assert await phase(driver) is not MachinePhase.RUNNING
        assert [name for name in world.leftovers() if name != UID] == []
        await driver.start(UID)
    assert await phase(driver) is MachinePhase.RUNNING


async def test_machines_do_not_disturb_each_other(world: MachineWorld) -> None:
    driver = await world.driver()
    for uid in (UID, OTHER):
        await driver.create(world.spec(uid))
    await asyncio.gather(driver.start(UID), driver.start(OTHER))
    await driver.delete(UID)
    assert await phase(driver, OTHER) is MachinePhase.RUNNING
    assert list(await driver.machines()) == [OTHER]


# --- status, wait, restart of the daemon --------------------------------------------------------------------------


async def test_every_call_on_an_unknown_machine_says_so(world: MachineWorld) -> None:
    driver = await world.driver()
    for call in (driver.start, driver.status, driver.wait, driver.address, driver.power_off, driver.kill, driver.usage):
        with pytest.raises(NotFound):
            await call(UID)


async def test_a_running_machine_outlives_the_driver(world: MachineWorld) -> None:
    before = await (await running(world)).status(UID)
    after = await (await world.driver()).status(UID)
    assert after == before


async def test_a_stop_is_remembered(world: MachineWorld) -> None:
    driver = await running(world)
    await world.hypervisor_dies(driver, UID)
    before = await stopped(driver)
    assert await (await world.driver()).status(UID) == before


async def test_waiting_for_a_machine_that_does_not_run_returns_at_once(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    assert (await driver.wait(UID)).phase is MachinePhase.CREATED


async def test_wait_sees_the_hypervisor_die(world: MachineWorld) -> None:
    driver = await running(world)
    waiting = started(stopped(driver))
    await asyncio.sleep(0)
    died_at = time.time()
    await world.hypervisor_dies(driver, UID)
    status = await waiting
    assert status.phase is MachinePhase.STOPPED
    assert status.fault
    assert status.stopped_at is not None
    assert died_at - 0.1 <= status.stopped_at <= time.time()


async def test_a_restarted_driver_sees_the_death_of_a_machine_it_did_not_start(world: MachineWorld) -> None:
    await running(world)
    driver = await world.driver()
    waiting = started(stopped(driver))
    await asyncio.sleep(0)
    await world.hypervisor_dies(driver, UID)
    assert (await waiting).fault


async def test_all_who_wait_hear_of_the_end(world: MachineWorld) -> None:
    driver = await running(world)
    waiting = [started(stopped(driver)) for _ in range(3)]
    await asyncio.sleep(0)
    await driver.kill(UID)
    assert {(await each).phase for each in waiting} == {MachinePhase.STOPPED}


async def test_of_a_network_that_is_there_nothing_is_told_and_the_end_of_the_machine_ends_the_question(
    world: MachineWorld,
) -> None:
    driver = await world.driver()
    with pytest.raises(NotFound):
        await driver.network_change(UID, "")
    await driver.create(world.spec(UID))
    assert await driver.network_change(UID, "") is None
    await driver.start(UID)
    given_up = started(driver.network_change(UID, ""))
    await asyncio.sleep(0.1)
    await aio.cancel(given_up)
    asked = started(driver.network_change(UID, ""))
    await asyncio.sleep(0.1)
    await driver.kill(UID)
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        assert await asked is None


async def test_giving_up_a_wait_changes_nothing(world: MachineWorld) -> None:
    driver = await running(world)
    waiting = started(driver.wait(UID))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await phase(driver) is MachinePhase.RUNNING
    await world.hypervisor_dies(driver, UID)
    assert (await stopped(driver)).phase is MachinePhase.STOPPED


async def test_a_guest_that_powers_off_by_itself_has_no_fault(world: MachineWorld) -> None:
    driver = await running(world)
    waiting = started(stopped(driver))
    await world.guest_powers_off(driver, UID)
    status = await waiting
    assert (status.phase, status.fault) == (MachinePhase.STOPPED, "")
    assert status.stopped_at is not None
    assert status.started_at is not None
    assert status.started_at <= status.stopped_at <= time.time()


async def test_a_guest_that_was_asked_to_power_off_has_no_fault(world: MachineWorld) -> None:
    driver = await running(world)
    await world.booted(driver, UID)
    await driver.power_off(UID)
    assert (await stopped(driver)).fault == ""


async def test_asking_a_stopped_machine_to_power_off_does_nothing(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    await driver.power_off(UID)
    assert await phase(driver) is MachinePhase.CREATED


# --- address ------------------------------------------------------------------------------------------------------


async def test_the_address_is_the_same_after_a_restart_of_the_daemon(world: MachineWorld) -> None:
    driver = await running(world)
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        address = await driver.address(UID)
        assert address.ip
        assert address.ssh_port > 0
        assert await (await world.driver()).address(UID) == address


async def test_no_address_is_awaited_of_a_machine_that_stops(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    with pytest.raises(Conflict):
        await driver.address(UID)
    await driver.start(UID)
    await driver.kill(UID)
    with pytest.raises(Conflict):
        await driver.address(UID)


# --- kill, delete -------------------------------------------------------------------------------------------------


async def test_killing_can_be_repeated(world: MachineWorld) -> None:
    driver = await running(world)
    await asyncio.gather(driver.kill(UID), driver.kill(UID))
    first = await driver.status(UID)
    assert first.phase is MachinePhase.STOPPED
    await driver.kill(UID)
    assert await driver.status(UID) == first
    assert [name for name in world.leftovers() if name != UID] == []


async def test_killing_a_machine_that_never_ran_does_nothing(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    await driver.kill(UID)
    assert await phase(driver) is MachinePhase.CREATED


async def test_deleting_a_running_machine_leaves_nothing(world: MachineWorld) -> None:
    driver = await running(world)
    await driver.delete(UID)
    assert world.leftovers() == []
    assert list(await driver.machines()) == []
    with pytest.raises(NotFound):
        await driver.status(UID)
    await driver.delete(UID)


async def test_a_deleted_machine_can_be_made_again(world: MachineWorld) -> None:
    """A restart of the container: the same pod, a fresh clone."""
    driver = await running(world)
    driver.host_key(UID).write_text("key of the first clone")
    await asyncio.gather(driver.delete(UID), driver.delete(UID))
    await driver.create(world.spec(UID))
    assert await phase(driver) is MachinePhase.CREATED
    assert not driver.host_key(UID).exists()
    await driver.start(UID)


async def test_who_waits_for_a_machine_that_is_deleted_is_told(world: MachineWorld) -> None:
    driver = await running(world)
    waiting = started(stopped(driver))
    await asyncio.sleep(0)
    await driver.delete(UID)
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert isinstance(outcome, NotFound) or (
        isinstance(outcome, MachineStatus) and outcome.phase is MachinePhase.STOPPED
    )


async def test_a_machine_can_be_deleted_by_a_later_daemon(world: MachineWorld) -> None:
    await running(world)
    driver = await world.driver()
    await driver.delete(UID)
    assert world.leftovers() == []


async def test_a_machine_whose_state_is_damaged_can_be_deleted(world: MachineWorld) -> None:
    await running(world)
    (world.root / UID / "state.json").write_bytes(b"{")
    driver = await world.driver()
    assert list(await driver.machines()) == [UID]
    await driver.delete(UID)
    assert world.leftovers() == []


async def test_half_made_and_half_removed_machines_are_cleared_away(world: MachineWorld) -> None:
    await world.driver()
    world.root.mkdir(exist_ok=True)
    for name in (f".staging-{UID}-0a0b", f".removing-{OTHER}-0c0d"):
        (world.root / name).mkdir()
        (world.root / name / "disk.img").write_bytes(b"x")
    driver = await world.driver()
    assert world.leftovers() == []
    assert list(await driver.machines()) == []


# --- console, usage, limits ----------------------------------------------------------------------------------------


async def test_console_and_host_key_lie_with_the_machine(world: MachineWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    assert driver.console(UID).parent == world.root / UID
    assert driver.host_key(UID).parent == world.root / UID


async def test_the_console_is_kept_over_starts(world: MachineWorld) -> None:
    driver = await running(world)
    await driver.kill(UID)
    driver.console(UID).write_bytes(b"said before\n")
    await driver.start(UID)
    assert driver.console(UID).read_bytes().startswith(b"said before\n")


async def test_a_running_machine_uses_something_and_a_stopped_one_nothing(world: MachineWorld) -> None:
    driver = await running(world)
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        while True:
            try:
                usage = await driver.usage(UID)
                break
            except Unavailable:  # no clock tick of CPU used yet
                await asyncio.sleep(0.02)
    assert usage.cpu_ns > 0
    assert usage.memory_bytes > 0
    assert usage.disk_bytes > 0
    assert abs(usage.sampled_at - time.time()) < 10
    await driver.kill(UID)
    with pytest.raises(Conflict):
        await driver.usage(UID)


async def test_limits_admit_the_image_and_the_spec(world: MachineWorld) -> None:
    driver, spec = await world.driver(), world.spec(UID)
    limits = driver.limits()
    assert spec.image.platform in driver.platforms
    assert limits.cpu_min <= spec.cpus <= limits.cpu_max
    assert limits.memory_min_bytes <= spec.memory_bytes <= limits.memory_max_bytes
