"""The bench of machine containers for the suite of `ports.ContainerRuntime`: guests that only seem to be there."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest_asyncio

from tests.support.memory_images import MemoryImages, MemoryRegistry
from vzkubelet.aio import SystemClock
from vzkubelet.machines.synthetic import SyntheticDriver, SyntheticTiming
from vzkubelet.machines.synthetic_guest import SyntheticGuests
from vzkubelet.model.identity import PodRef
from vzkubelet.pods.directory import PodDirectories
from vzkubelet.pods.machine_runtime import MachineRuntime
from vzkubelet.pods.machine_session import Parts


class SyntheticBench:
    """Runtimes on one state directory, as daemons one after another."""

    image = "registry.test/guest:1"

    def __init__(self, root: Path, timing: SyntheticTiming | None = None) -> None:
        self.root = root
        self.timing = timing or SyntheticTiming(boot_s=0.02, power_off_s=0.02)
        self.registry = MemoryRegistry()
        self.registry.publish(self.image)
        self.directories = PodDirectories(root / "pods")
        self.images = MemoryImages(root / "images", self.registry)
        self.driver = self._driver()
        self._made: list[MachineRuntime] = []

    def _driver(self) -> SyntheticDriver:
        return SyntheticDriver(self.root / "machines", self.timing)

    async def open(self) -> None:
        await self.images.pull(self.image, ())
        await self.driver.adopt()

    def runtime(self) -> MachineRuntime:
        parts = Parts(self.driver, self.images, SyntheticGuests(self.driver), self.directories, SystemClock())
        self._made.append(MachineRuntime(parts))
        return self._made[-1]

    async def restarted(self) -> MachineRuntime:
        """As a daemon after a restart: a new driver, new guests, a new runtime on what is on disk."""
        await self.close()
        self.driver = self._driver()
        await self.driver.adopt()
        return self.runtime()

    async def leftovers(self, pod: PodRef) -> Sequence[str]:
        machines = [f"machine {uid}" for uid in await self.driver.machines() if uid == pod.uid]
        path = self.directories.of(pod.uid).path
        return [*machines, *([str(path)] if path.exists() else [])]

    async def close(self) -> None:
        for runtime in self._made:
            await runtime.close()
        self._made.clear()


@pytest_asyncio.fixture
async def synthetic_bench(tmp_path: Path) -> AsyncIterator[SyntheticBench]:
    bench = SyntheticBench(tmp_path / "synthetic")
    await bench.open()
    yield bench
    await bench.close()
