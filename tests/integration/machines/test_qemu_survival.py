"""Guests of a daemon that was killed without warning: none lost, none doubled, nothing left over."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.machine_worlds import BOOT_TIMEOUT_S, QemuWorld, machine_image
from tests.support.other_daemon import OtherDaemon, started_and_died
from vzkubelet.config.settings import GuestNetwork
from vzkubelet.machines.directory import MachineRoot, reachable_socket_path
from vzkubelet.machines.process import owned
from vzkubelet.machines.qemu import monitor
from vzkubelet.machines.qemu.machine import QemuState
from vzkubelet.ports import MachinePhase, Share

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"
DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.support.machine_worlds import QemuWorld, machine_image
from vzkubelet.config.settings import GuestNetwork

async def main(root, image, network, course):
    world = QemuWorld(Path(root), machine_image(Path(image)), GuestNetwork(network))
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


@pytest_asyncio.fixture(params=["user", "bridge"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, guest_directory: Path) -> AsyncIterator[QemuWorld]:
    made = QemuWorld(tmp_path / "machines", machine_image(guest_directory), GuestNetwork(request.param))
    try:
        yield made
    finally:
        await made.end()
    assert made.leftovers() == []
    assert made.network_leftovers() == []


def daemon_of(world: QemuWorld, course: str) -> OtherDaemon:
    return OtherDaemon(DAEMON, str(world.root), str(world.image.disk.parent), world.network.value, course)


async def started_by_a_dead_daemon(world: QemuWorld) -> None:
    await started_and_died(daemon_of(world, "start"))


async def test_a_guest_of_a_killed_daemon_goes_on_and_its_end_is_seen(world: QemuWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.qemu_pid(UID)
    driver = await world.driver()
    assert (await driver.status(UID)).phase is MachinePhase.RUNNING
    assert world.qemu_pid(UID) == pid
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        async with await world.login(await driver.address(UID)) as guest:
            boot = (await guest.run("cat /proc/sys/kernel/random/boot_id", check=True)).stdout
        driver = await world.driver()
        async with await world.login(await driver.address(UID)) as guest:
            assert (await guest.run("cat /proc/sys/kernel/random/boot_id", check=True)).stdout == boot
        await driver.power_off(UID)
        assert (await driver.wait(UID)).fault == ""


async def test_a_power_off_that_no_daemon_saw_is_no_fault(world: QemuWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.qemu_pid(UID)
    driver = await world.driver()
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        await world.booted(driver, UID)
        await driver.power_off(UID)
        await driver.close()
        while _runs(pid):
            await asyncio.sleep(0.05)
    ended_at = time.time()
    await asyncio.sleep(1.5)
    status = await (await world.driver()).status(UID)
    assert (status.phase, status.fault) == (MachinePhase.STOPPED, "")
    assert status.stopped_at is not None
    assert abs(status.stopped_at - ended_at) < 1.0


async def test_a_crash_that_no_daemon_saw_is_a_fault(world: QemuWorld) -> None:
    await started_by_a_dead_daemon(world)
    pid = world.qemu_pid(UID)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while _runs(pid):
            await asyncio.sleep(0.02)
    status = await (await world.driver()).status(UID)
    assert status.phase is MachinePhase.STOPPED
    assert "crashed or was killed" in status.fault
    assert status.stopped_at is not None
    assert status.started_at is not None
    assert status.started_at <= status.stopped_at <= time.time()


async def test_a_daemon_killed_at_any_moment_leaves_nothing_half_made(world: QemuWorld) -> None:
    moments = random.Random(20261121)
    for _ in range(8):
        daemon = daemon_of(world, "loop")
        try:
            await daemon.says("ready")
            await asyncio.sleep(moments.uniform(0.0, 0.25))
        finally:
            daemon.die()
        driver = await world.driver()
        qemus = [process for process in owned(world.root) if process.role == "qemu"]
        phases = {uid: (await driver.status(uid)).phase for uid in await driver.machines()}
        assert len(qemus) == sum(phase is MachinePhase.RUNNING for phase in phases.values())
        assert [name for name in world.leftovers() if name.startswith(".")] == []
        for uid in phases:
            await driver.delete(uid)
        assert world.leftovers() == []


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# --- One machine in a root whose path is longer than a socket's name may be --------------------------------------


@pytest_asyncio.fixture
async def bridged(tmp_path: Path, guest_directory: Path) -> AsyncIterator[QemuWorld]:
    root = tmp_path / ("deep" * 30) / "machines"
    made = QemuWorld(root, machine_image(guest_directory), GuestNetwork.BRIDGE)
    try:
        yield made
    finally:
        await made.end()
    assert made.leftovers() == []


async def test_a_frozen_client_on_the_monitor_delays_the_next_and_blocks_nothing_else(bridged: QemuWorld) -> None:
    driver = await bridged.driver()
    await driver.create(bridged.spec(UID))
    await driver.start(UID)
    path = MachineRoot(bridged.root).machine(UID).monitor_socket
    with socket.socket(socket.AF_UNIX) as frozen, reachable_socket_path(path) as name:
        frozen.connect(name)
        await asyncio.sleep(0.1)
        await (await bridged.driver()).kill(UID)
    driver = await bridged.driver()
    assert (await driver.status(UID)).fault == "the machine was killed on request"


async def test_a_half_open_monitor_connection_of_a_dead_daemon_does_not_block(bridged: QemuWorld) -> None:
    driver = await bridged.driver()
    await driver.create(bridged.spec(UID))
    await driver.start(UID)
    path = MachineRoot(bridged.root).machine(UID).monitor_socket
    with socket.socket(socket.AF_UNIX) as half, reachable_socket_path(path) as name:
        half.connect(name)
        half.send(b'{"execute": "qmp_capab')
    status = await monitor.execute(path, "query-status")
    assert isinstance(status, dict)
    assert status["status"] == "running"


async def test_shares_are_seen_from_both_sides_and_read_only_ones_stay_so(bridged: QemuWorld, tmp_path: Path) -> None:
    shared, protected = tmp_path / "shared", tmp_path / "protected"
    for directory in (shared, protected):
        directory.mkdir()
        (directory / "from-host").write_text("host\n")
    driver = await bridged.driver()
    await driver.create(bridged.spec(UID, Share("data", shared), Share("fixed", protected, read_only=True)))
    await driver.start(UID)
    servers = [process for process in owned(bridged.root) if process.role.startswith("virtiofsd")]
    assert {process.role for process in servers} == {"virtiofsd:data", "virtiofsd:fixed"}
    driver = await bridged.driver()
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        async with await bridged.login(await driver.address(UID)) as guest:
            await guest.run("mkdir -p /mnt/data /mnt/fixed && modprobe virtiofs", check=True)
            await guest.run("mount -t virtiofs data /mnt/data && mount -t virtiofs fixed /mnt/fixed", check=True)
            read = await guest.run("cat /mnt/data/from-host /mnt/fixed/from-host", check=True)
            assert read.stdout == "host\nhost\n"
            await guest.run("echo guest >/mnt/data/from-guest && chown 1000:1000 /mnt/data/from-guest", check=True)
            # Root in the guest decides about the guest's mounts; the host does not rely on them.
            written = await guest.run("mount -o remount,rw /mnt/fixed; echo x >/mnt/fixed/from-host", check=False)
            assert written.exit_status != 0
            removed = await guest.run("rm /mnt/fixed/from-host", check=False)
            assert removed.exit_status != 0
    assert (shared / "from-guest").read_text() == "guest\n"
    assert (shared / "from-guest").stat().st_uid == 1000
    assert (protected / "from-host").read_text() == "host\n"
    await driver.kill(UID)
    assert owned(bridged.root / UID) == []


async def test_the_state_knows_processes_by_more_than_their_number(bridged: QemuWorld) -> None:
    """A pid that was given to somebody else is neither taken for the machine nor killed."""
    driver = await bridged.driver()
    await driver.create(bridged.spec(UID))
    await driver.start(UID)
    directory = MachineRoot(bridged.root).machine(UID)
    state = directory.read_state(QemuState)
    await driver.kill(UID)
    await driver.close()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            assert state.process is not None
            reused = type(state.process)(innocent.pid, state.process.start_ticks, state.process.boot_id)
            state.process, state.phase = reused, MachinePhase.RUNNING
            directory.write_state(state)
            driver = await bridged.driver()
            assert (await driver.status(UID)).phase is MachinePhase.STOPPED
            await driver.delete(UID)
            assert innocent.poll() is None
        finally:
            innocent.kill()
