"""Machine containers on a driver that runs two machines at once, as a Mac does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.memory_images import MemoryImages, MemoryRegistry, Published
from vzkubelet.aio import SystemClock
from vzkubelet.errors import MACHINE_LIMIT_REASON, Exhausted
from vzkubelet.machines.synthetic import SyntheticDriver, SyntheticTiming
from vzkubelet.machines.synthetic_guest import SyntheticGuests
from vzkubelet.model.identity import PodRef
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.machine_limit import MachineLimit
from vzkubelet.pods.machine_runtime import MachineRuntime
from vzkubelet.pods.machine_session import Parts
from vzkubelet.ports import ContainerSpec, MachineImage, MachinePhase

IMAGE, LINUX_IMAGE = "registry.test/guest:1", "registry.test/linux:1"
FIRST, SECOND, THIRD, LINUX = (PodRef("ns", name, f"uid-{name}") for name in ("first", "second", "third", "linux"))


class LimitedDriver(SyntheticDriver):
    """Of macOS guests."""

    def _is_macos(self, uid: str) -> bool:
        return self.directory(uid).read_record().os == "darwin"

    async def start(self, uid: str) -> None:
        phases = [(await self.status(each)).phase for each in await self.machines() if self._is_macos(each)]
        if self._is_macos(uid) and phases.count(MachinePhase.RUNNING) >= 2:
            raise Exhausted("two machines run; delete one", reason=MACHINE_LIMIT_REASON)
        await super().start(uid)


class Host:
    def __init__(self, root: Path) -> None:
        self.registry = MemoryRegistry()
        self.registry.publish(IMAGE, Published(b"macOS", os="darwin", architecture="arm64"))
        self.registry.publish(LINUX_IMAGE)
        self.images = MemoryImages(root / "images", self.registry)
        self.driver = LimitedDriver(root / "machines", SyntheticTiming())
        self.limit = MachineLimit()
        guests, directories = SyntheticGuests(self.driver), PodDirectories(root / "pods")
        self.runtime = MachineRuntime(Parts(self.driver, self.images, guests, directories, SystemClock(), self.limit))

    async def run(self, pod: PodRef, *command: str, reference: str = IMAGE) -> None:
        image: MachineImage = await self.images.pull(reference, ())
        spec = ContainerSpec(pod, "vm", 0, image, command=command or ("sleep", "100"))
        await self.runtime.prepare(spec)
        await self.runtime.start(spec)


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    await made.driver.adopt()
    yield made
    for pod in (FIRST, SECOND, THIRD, LINUX):
        await made.runtime.remove_pod(pod)
    await made.runtime.close()


async def test_a_refused_start_is_told_leaves_no_clone_and_is_over_when_a_machine_ends(host: Host) -> None:
    await host.run(FIRST, "sleep", "0.3")
    await host.run(SECOND)
    assert host.limit.message == ""
    with pytest.raises(Exhausted) as caught:
        await host.run(THIRD)
    assert caught.value.reason == MACHINE_LIMIT_REASON
    assert host.limit.message == "two machines run; delete one"
    assert list(await host.driver.machines()) == [FIRST.uid, SECOND.uid]
    async with asyncio.timeout(10):
        await host.runtime.wait(FIRST, "vm")
    assert host.limit.message == ""
    await host.run(THIRD)


async def test_a_machine_that_is_removed_while_it_runs_frees_its_slot(host: Host) -> None:
    for pod in (FIRST, SECOND):
        await host.run(pod)
    with pytest.raises(Exhausted):
        await host.run(THIRD)
    await host.runtime.remove_pod(THIRD)
    assert host.limit.message, "the machine that was never started had no slot to give back"
    await host.runtime.remove_pod(SECOND)
    assert host.limit.message == ""
    await host.run(THIRD)


async def test_linux_guests_that_start_and_end_do_not_tell_that_macos_guests_can_start_again(host: Host) -> None:
    for pod in (FIRST, SECOND):
        await host.run(pod)
    with pytest.raises(Exhausted):
        await host.run(THIRD)
    await host.run(LINUX, "sleep", "0.1", reference=LINUX_IMAGE)
    assert host.limit.message == "two machines run; delete one", "after the start of a Linux guest"
    async with asyncio.timeout(10):
        await host.runtime.wait(LINUX, "vm")
    assert host.limit.message, "after its end"
    await host.runtime.remove_pod(LINUX)
    await host.run(LINUX, reference=LINUX_IMAGE)
    await host.runtime.remove_pod(LINUX)
    assert host.limit.message, "after its removal while it ran"
    await host.runtime.remove_pod(FIRST)
    assert host.limit.message == ""
