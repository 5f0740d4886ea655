"""Guests of the vz driver when daemons and helpers die, and when several agents share one Mac."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.apple_double import MacHost
from tests.support.other_daemon import OtherDaemon, started_and_died
from tests.support.vz_world import VzWorld, ending, vz_image
from vzkubelet import aio
from vzkubelet.errors import Conflict, Exhausted, MachineFault
from vzkubelet.machines.directory import MachineDirectory, MachineRoot
from vzkubelet.machines.process import owned, reference
from vzkubelet.machines.vz.client import Client, closing
from vzkubelet.machines.vz.launch import HELPER_ROLE, Interpreter, launch_helper
from vzkubelet.machines.vz.slots import GuestKind, Slots
from vzkubelet.ports import MachineDriver, MachinePhase

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
OTHER = "7f1d2c3b-0000-4000-8000-000000000002"
THIRD = "7f1d2c3b-0000-4000-8000-000000000003"
DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.support.apple_double import MacHost
from tests.support.vz_world import VzWorld, vz_image

async def main(root, image, mac, course):
    world = VzWorld(Path(root), vz_image(Path(image)), MacHost(Path(mac), version=[15, 1]))
    driver = await world.driver()
    print("ready", flush=True)
    if course == "start":
        await driver.create(world.spec({uid!r}))
        await driver.start({uid!r})
        print("started", flush=True)
        await asyncio.sleep(3600)
    while True:
        await driver.create(world.spec({uid!r}))
        await driver.start({uid!r})
        await driver.delete({uid!r})

asyncio.run(main(*sys.argv[1:]))
""".replace("{uid!r}", repr(UID))


@pytest.fixture
def mac(tmp_path: Path) -> MacHost:
    return MacHost(tmp_path / "mac", version=[15, 1])


@pytest_asyncio.fixture
async def world(tmp_path: Path, mac: MacHost) -> AsyncIterator[VzWorld]:
    async with ending(VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac)) as made:
        yield made


def daemon_of(world: VzWorld, course: str) -> OtherDaemon:
    return OtherDaemon(DAEMON, str(world.root), str(world.image.disk.parent), str(world.mac.directory), course)


async def started_by_a_dead_daemon(world: VzWorld) -> None:
    await started_and_died(daemon_of(world, "start"))


async def started(world: VzWorld, uid: str = UID) -> MachineDriver:
    driver = await world.driver()
    await driver.create(world.spec(uid))
    await driver.start(uid)
    return driver


async def ended(driver: MachineDriver, uid: str = UID) -> str:
    async with asyncio.timeout(30):
        return (await driver.wait(uid)).fault


def helpers(world: VzWorld) -> list[int]:
    return [process.ref.pid for process in owned(world.root) if process.role == HELPER_ROLE]


# --- A daemon that dies -------------------------------------------------------------------------------------------


async def test_a_guest_of_a_killed_daemon_goes_on_keeps_its_slot_and_its_end_is_seen(world: VzWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.helper_pid(UID)
    assert Slots(world.host_directory).held(GuestKind.MACOS) == 1
    driver = await world.driver()
    assert (await driver.status(UID)).phase is MachinePhase.RUNNING
    assert helpers(world) == [pid]
    address = await driver.address(UID)
    assert await (await world.driver()).address(UID) == address
    await world.guest_powers_off(driver, UID)
    assert await ended(await world.driver()) == ""
    assert Slots(world.host_directory).held(GuestKind.MACOS) == 0


async def test_a_power_off_that_no_daemon_saw_is_no_fault(world: VzWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.helper_pid(UID)
    world.mac.tell(world.machine_state(UID).mac, "power-off")
    ended_at = time.time()
    async with asyncio.timeout(20):
        while reference(pid) is not None:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)
    status = await (await world.driver()).status(UID)
    assert (status.phase, status.fault) == (MachinePhase.STOPPED, "")
    assert status.stopped_at is not None
    assert abs(status.stopped_at - ended_at) < 1.0


async def settled_phases(world: VzWorld, driver: MachineDriver) -> dict[str, MachinePhase]:
    """What the machines are once as many helpers live as machines run: one that the dead daemon had told to end may
    still be ending when it is asked first."""
    async with asyncio.timeout(20):
        while True:
            phases = {uid: (await driver.status(uid)).phase for uid in await driver.machines()}
            if len(helpers(world)) == sum(phase is MachinePhase.RUNNING for phase in phases.values()):
                return phases
            await asyncio.sleep(0.05)


async def test_a_daemon_killed_at_any_moment_leaves_nothing_half_made(world: VzWorld) -> None:
    moments = random.Random(20261121)
    for _ in range(6):
        daemon = daemon_of(world, "loop")
        try:
            await daemon.says("ready")
            await asyncio.sleep(moments.uniform(0.0, 1.5))
        finally:
            daemon.die()
        driver = await world.driver()
        phases = await settled_phases(world, driver)
        assert [name for name in world.leftovers() if name.startswith(".")] == []
        for uid in phases:
            await driver.delete(uid)
        assert world.leftovers() == []
        assert world.host_leftovers() == []


# --- A helper that dies -------------------------------------------------------------------------------------------


async def test_a_killed_helper_is_a_fault_that_names_it(world: VzWorld) -> None:
    driver = await started(world)
    pid = world.helper_pid(UID)
    os.kill(pid, signal.SIGKILL)
    assert (await ended(driver)).startswith(f"the helper process {pid} of the virtual machine was killed by signal 9")
    await driver.start(UID)
    assert (await driver.status(UID)).phase is MachinePhase.RUNNING


async def test_a_helper_that_was_killed_while_no_daemon_ran_is_named_too(world: VzWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.helper_pid(UID)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while reference(pid) is not None:
            await asyncio.sleep(0.02)
    fault = (await (await world.driver()).status(UID)).fault
    assert fault.startswith(f"the helper process {pid} of the virtual machine crashed or was killed")


async def test_a_helper_that_is_told_to_end_says_so(world: VzWorld) -> None:
    """As by the end of a login session, which nobody asked the daemon for."""
    driver = await started(world)
    os.kill(world.helper_pid(UID), signal.SIGTERM)
    assert "was told to end" in await ended(driver)


async def test_a_guest_that_crashes_is_a_fault_in_the_frameworks_words(world: VzWorld) -> None:
    driver = await started(world)
    world.mac.tell(world.machine_state(UID).mac, "crash 1 The_guest_panicked")
    assert "The_guest_panicked" in await ended(driver)


async def test_a_helper_that_hangs_is_killed_and_not_waited_for(world: VzWorld) -> None:
    driver = await started(world)
    os.kill(world.helper_pid(UID), signal.SIGSTOP)
    async with asyncio.timeout(15):
        await driver.kill(UID)
    assert (await driver.status(UID)).fault == "the machine was killed on request"
    assert helpers(world) == []


async def test_a_helper_that_dies_in_a_start_is_told_with_its_last_words(world: VzWorld) -> None:
    world.mac.fail("start", never=True)
    driver = await world.driver()
    await driver.create(world.spec(UID))
    starting = aio.spawn(driver.start(UID), name="start", on_crash=lambda _: None)
    async with asyncio.timeout(20):
        while not helpers(world) or not await greeted(world):
            await asyncio.sleep(0.05)
    os.kill(helpers(world)[0], signal.SIGKILL)
    with pytest.raises(MachineFault, match=r"did not start its guest \(was killed by signal 9 \(SIGKILL\)\)"):
        await starting
    assert (await driver.status(UID)).phase is MachinePhase.CREATED
    for name in world.mac.pending_faults():
        (world.mac.directory / "faults" / name).unlink()


async def greeted(world: VzWorld) -> bool:
    with contextlib.suppress(Exception), closing(await Client.connect(machine(world).helper_socket)):
        return True
    return False


def machine(world: VzWorld) -> MachineDirectory:
    return MachineRoot(world.root).machine(UID)


# --- Two owners ---------------------------------------------------------------------------------------------------


async def test_a_second_helper_of_a_machine_is_refused(world: VzWorld) -> None:
    await started(world)
    pid = world.helper_pid(UID)
    interpreter = Interpreter.find(world.setup.settings.helper_app, world.setup.environment)
    command = [interpreter.executable, "-m", "vzkubelet.machines.vz.helper", str(machine(world).path)]
    done = await asyncio.to_thread(
        subprocess.run, command, env=interpreter.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"process {pid}" in done.stderr
    assert helpers(world) == [pid]


async def test_a_start_ends_what_an_unfinished_start_left(world: VzWorld) -> None:
    """A daemon that was killed between the start of a helper and the note of it, and another that did not adopt."""
    driver = await world.driver()
    await driver.create(world.spec(UID))
    await driver.start(UID)
    await driver.kill(UID)
    interpreter = Interpreter.find(world.setup.settings.helper_app, world.setup.environment)
    stray = launch_helper(interpreter, machine(world), [])
    async with asyncio.timeout(20):
        while not await greeted(world):
            await asyncio.sleep(0.05)
    await driver.start(UID)
    assert helpers(world) == [world.helper_pid(UID)]
    assert world.helper_pid(UID) != stray.pid


async def test_a_second_daemon_on_the_same_machines_starts_nothing_twice(world: VzWorld) -> None:
    first = await started(world)
    second = VzWorld(world.root, world.image, world.mac)
    driver = await second.driver()
    with pytest.raises(Conflict):
        await driver.start(UID)
    assert len(helpers(world)) == 1
    await driver.kill(UID)
    assert await ended(first) == "the machine was killed on request"
    await driver.close()


# --- Slots of one Mac ---------------------------------------------------------------------------------------------


async def test_agents_of_one_mac_share_its_slots_and_never_an_address(world: VzWorld, tmp_path: Path) -> None:
    async with ending(VzWorld(tmp_path / "other", world.image, world.mac)) as other:
        await started(world, UID)
        elsewhere = await started(other, OTHER)
        macs = {world.machine_state(UID).mac, other.machine_state(OTHER).mac}
        assert len(macs) == 2
        await elsewhere.create(other.spec(THIRD))
        with pytest.raises(Exhausted, match=r"default/pod, default/pod") as caught:
            await elsewhere.start(THIRD)
        assert caught.value.reason == "VirtualMachineLimit"
        await (await world.driver()).kill(UID)
        await elsewhere.start(THIRD)
        assert {other.machine_state(uid).mac for uid in (OTHER, THIRD)} == macs
    assert world.host_leftovers() == []


async def test_a_slot_that_somebody_else_has_is_told_apart_from_our_own(world: VzWorld) -> None:
    world.mac.configure(limits={"macos_guests": 1})
    driver = await started(world)
    await driver.create(world.spec(OTHER))
    with pytest.raises(Exhausted, match=r"pgrep.*shutdown -r.*agents of this host run 1, so another program") as caught:
        await driver.start(OTHER)
    assert caught.value.reason == "VirtualMachineLimit"
    assert (await driver.status(OTHER)).phase is MachinePhase.CREATED
    assert Slots(world.host_directory).held(GuestKind.MACOS) == 1
    await driver.kill(UID)
    await driver.start(OTHER)


async def test_linux_guests_take_no_macos_slots(tmp_path: Path, mac: MacHost) -> None:
    async with ending(VzWorld(tmp_path / "machines", vz_image(tmp_path / "image", "linux"), mac)) as world:
        driver = await world.driver()
        for uid in (UID, OTHER, THIRD):
            await driver.create(world.spec(uid))
            await driver.start(uid)
        assert len({world.machine_state(uid).mac for uid in (UID, OTHER, THIRD)}) == 3
        assert Slots(world.host_directory).held(GuestKind.MACOS) == 0


async def test_churn_uses_one_lease(world: VzWorld) -> None:
    driver = await world.driver()
    for _ in range(3):
        await driver.create(world.spec(UID))
        await driver.start(UID)
        await driver.address(UID)
        await driver.delete(UID)
    leased = [line for line in world.mac.leases.read_text().splitlines() if "hw_address" in line]
    assert len(set(leased)) == 1


# --- Identity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "distinct"), [("keep", 1), ("random", 2)])
async def test_clones_have_the_images_identifier_or_their_own(
    tmp_path: Path, mac: MacHost, policy: str, distinct: int
) -> None:
    image = vz_image(tmp_path / "image")
    async with ending(VzWorld(tmp_path / "machines", image, mac, {"vz-machine-id": policy})) as world:
        for uid in (UID, OTHER):
            await started(world, uid)
        identities = {json.loads(path.read_text())["machine_id"] for path in mac.running()}
        assert len(identities) == distinct


async def test_a_second_clone_may_be_refused_while_the_first_runs(tmp_path: Path, mac: MacHost) -> None:
    image = vz_image(tmp_path / "image")
    async with ending(VzWorld(tmp_path / "m", image, mac, {"vz-machine-id": "fail-if-running"})) as world:
        driver = await started(world)
        await driver.create(world.spec(OTHER))
        with pytest.raises(Exhausted, match="same machine identifier"):
            await driver.start(OTHER)
        await driver.kill(UID)
        await driver.start(OTHER)


# --- A cache that is deeper than a socket's name may be ------------------------------------------------------------


async def test_the_default_cache_of_a_mac_is_not_too_deep(
    tmp_path: Path, mac: MacHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Mac has no /proc, and ``/Users/…/Library/Caches/com.agoda.fleet.virtualization/node/machines/UID`` is long."""
    monkeypatch.setattr("vzkubelet.machines.directory._DESCRIPTORS", tmp_path / "no-proc")
    async with ending(VzWorld(tmp_path / ("deep" * 30) / "machines", vz_image(tmp_path / "image"), mac)) as world:
        driver = await started(world)
        await driver.address(UID)
        await driver.power_off(UID)
        assert await ended(driver) == ""
