"""The loops around the store's upkeep, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.memory_runtime import MemoryRecorder
from vzkubelet import aio, config
from vzkubelet.daemon import image_keeper
from vzkubelet.daemon.image_keeper import ImageKeeper
from vzkubelet.errors import Unavailable
from vzkubelet.images.collection import Collection as Collected
from vzkubelet.images.collection import Removed, Rules, Volume
from vzkubelet.images.findings import Finding

FINE = Collected(Volume(100, 50), 0, 0, 0)
SHORT = Collected(Volume(100, 5), 15, 1, 0)
FREED = Collected(Volume(100, 5), 15, 15, 0, (Removed("sha256:1", ("a:1",), 15, "space"),))


class Store:
    """Says what a test told it to say; an exception is raised."""

    def __init__(self) -> None:
        self.collected: Collected | Exception = FINE
        self.findings: tuple[Finding, ...] | Exception | None = ()
        self.adopted: Exception | str = "nothing"
        self.collections: list[float] = []
        self.scrubs: list[tuple[float, float]] = []
        self.caches: list[Path] = []

    async def collect(self, rules: Rules | None = None, in_use: Collection[str] | None = None) -> Collected:
        self.collections.append(asyncio.get_running_loop().time())
        if isinstance(self.collected, Exception):
            raise self.collected
        return self.collected

    async def scrub(self, older_than_s: float = 0.0) -> tuple[Finding, ...] | None:
        self.scrubs.append((asyncio.get_running_loop().time(), older_than_s))
        if isinstance(self.findings, Exception):
            raise self.findings
        return self.findings

    async def adopt(self, cache: Path) -> object:
        self.caches.append(cache)
        if isinstance(self.adopted, Exception):
            raise self.adopted
        return self.adopted


class World:
    def __init__(self, scrub_interval_s: float = 7 * 24 * 3600.0) -> None:
        self.store = Store()
        self.recorder = MemoryRecorder()
        self.forgotten = 0
        self.changes = 0
        self.damages = 0
        self.keeper = ImageKeeper(
            self.store,
            scrub_interval_s,
            self.recorder,
            forget=self._forget,
            on_change=self._changed,
            on_damage=self._damaged,
        )

    async def _forget(self, before: float) -> None:
        self.forgotten += 1

    def _changed(self) -> None:
        self.changes += 1

    def _damaged(self) -> None:
        self.damages += 1

    @property
    def reasons(self) -> list[str]:
        return [event.split("|")[2] for event in self.recorder.events]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        task = aio.spawn(self.keeper.run(Path("cache")), name="keeper")
        try:
            yield self
            assert not task.done()
        finally:
            await aio.cancel(task)


async def test_images_are_collected_at_start_and_every_five_minutes() -> None:
    async with World().running() as world:
        await asyncio.sleep(1000)
    assert [round(at) for at in world.store.collections] == [0, 300, 600, 900]
    assert world.reasons == []
    assert world.forgotten == 4
    assert world.store.caches == [Path("cache")]


async def test_space_that_cannot_be_freed_is_told_as_the_kubelet_tells_it() -> None:
    world = World()
    world.store.collected = SHORT
    async with world.running():
        await asyncio.sleep(10)
        assert world.reasons == ["FreeDiskSpaceFailed"]
        assert "(95% of 100 B used)" in world.recorder.events[0]
        await asyncio.sleep(300)
        assert world.reasons == ["FreeDiskSpaceFailed", "FreeDiskSpaceFailed", "ImageGCFailed"]
        world.store.collected = FREED
        await asyncio.sleep(300)
        world.store.collected = SHORT
        await asyncio.sleep(300)
    assert world.reasons[3:] == ["FreeDiskSpaceFailed"], "a failure after a success is the first one again"


async def test_a_volume_that_cannot_be_read_is_told_from_the_second_time_on_and_tried_again() -> None:
    world = World()
    world.store.collected = Unavailable("cache: input/output error")
    async with world.running():
        await asyncio.sleep(10)
        assert world.reasons == []
        await asyncio.sleep(300)
        assert world.recorder.events == ["|Warning|ImageGCFailed|cache: input/output error"]
        world.store.collected = FINE
        await asyncio.sleep(300)
    assert len(world.store.collections) == 3


async def test_images_that_went_are_a_change() -> None:
    world = World()
    async with world.running():
        await asyncio.sleep(10)
        before = world.changes
        world.store.collected = FREED
        await asyncio.sleep(300)
    assert world.changes == before + 1


async def test_damage_is_told_and_reading_goes_on() -> None:
    world = World()
    world.store.findings = (Finding("sha256:1", "3 of 8 chunks are not as they were written", references=("a:1",)),)
    async with world.running():
        await asyncio.sleep(2 * 3600)
    assert set(world.reasons) == {"ImageDamaged"}
    assert "content sha256:1 of a:1: 3 of 8 chunks" in world.recorder.events[0]
    assert len(world.store.scrubs) == world.damages == 2
    assert world.store.scrubs[0] == (300, 7 * 24 * 3600)


async def test_somebody_else_who_reads_is_no_failure() -> None:
    world = World()
    world.store.findings = None
    async with world.running():
        await asyncio.sleep(3600)
    assert world.reasons == []


async def test_reading_can_be_switched_off_and_asked_for_often() -> None:
    async with World(0).running() as world:
        await asyncio.sleep(10_000)
    assert world.store.scrubs == []
    async with World(10).running() as world:
        await asyncio.sleep(95)
    assert len(world.store.scrubs) == 9


@pytest.mark.parametrize("fault", [Unavailable("no disk"), RuntimeError("a bug")])
async def test_no_failure_ends_the_agent_or_keeps_the_other_loops_from_going_on(fault: Exception) -> None:
    """Hazard: a bug in the upkeep of images stops all pods of a node."""
    world = World(10)
    world.store.collected = world.store.findings = world.store.adopted = fault
    async with world.running():
        await asyncio.sleep(1000)
    assert len(world.store.collections) == 4
    assert len(world.store.scrubs) > 90


def test_a_high_threshold_of_a_hundred_switches_it_off() -> None:
    host = config.Host(name="h", platform="linux", home="/home/u")

    def of(flags: dict[str, str]) -> Rules:
        return image_keeper.rules(config.load(flags, {}, purpose=config.Purpose.STANDALONE, host=host).images)

    assert of({}) == Rules(85, 80, 120, 0)
    assert of({"image-gc-high-threshold": "100"}).high_percent > 100
