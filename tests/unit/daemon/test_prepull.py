"""Pulling ahead of pods, in virtual time."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.memory_runtime import MemoryRecorder
from vzkubelet import aio, errors
from vzkubelet.daemon.prepull import Prepull, PullSlots
from vzkubelet.ports import MachineImage


class LoopClock:
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def image(reference: str, version: int) -> MachineImage:
    path = Path("unused")
    digest = f"sha256:{version}"
    return MachineImage(reference, f"{reference}@{digest}", 1, digest, "linux", "amd64", path, 1, path)


class Registry:
    """Answers a pull after `takes_s`; `down` makes it fail."""

    def __init__(self) -> None:
        self.takes_s = 1.0
        self.version = 1
        self.down = False
        self.broken = False
        self.asked: list[tuple[float, str]] = []
        self.at_once = 0
        self.most_at_once = 0

    async def pull(self, reference: str) -> MachineImage:
        self.asked.append((asyncio.get_running_loop().time(), reference))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if self.broken:
            raise RuntimeError("a bug")
        if self.down:
            raise errors.Unavailable(f"{reference}: connection refused", reason="ErrImagePull")
        return image(reference, self.version)


class World:
    def __init__(self, *references: str, interval_s: float = 600.0) -> None:
        self.registry = Registry()
        self.recorder = MemoryRecorder()
        self.slots = PullSlots(2)
        self.changes = 0
        self.prepull = Prepull(
            references,
            interval_s,
            self.registry.pull,
            self.slots,
            self.recorder,
            LoopClock(),
            on_change=self._changed,
            jitter=random.Random(1),
        )

    def _changed(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = aio.spawn(self.prepull.run(), name="prepull")
        try:
            yield
            assert not task.done()
        finally:
            await aio.cancel(task)


async def test_all_images_are_pulled_at_start_one_after_the_other_and_asked_for_again_by_interval() -> None:
    world = World("a:1", "b:1", "c:1")
    async with world.running():
        await asyncio.sleep(10)
        assert Counter(reference for _, reference in world.registry.asked) == {"a:1": 1, "b:1": 1, "c:1": 1}
        await asyncio.sleep(3000)
    asked = Counter(reference for _, reference in world.registry.asked)
    assert all(5 <= count <= 7 for count in asked.values())
    assert world.registry.most_at_once == 1


async def test_a_newer_version_is_told_once_and_an_unchanged_one_never() -> None:
    world = World("a:1")
    async with world.running():
        await asyncio.sleep(2000)
        assert world.changes == 1
        world.registry.version = 2
        await asyncio.sleep(2000)
    assert world.changes == 2
    assert [event.split("|")[2] for event in world.recorder.events] == ["ImagePrePulled"] * 2


async def test_what_fails_is_told_and_tried_ever_more_rarely_while_the_others_go_on() -> None:
    """Hazard: one misspelled reference hammers the registry, or keeps the rest of the list from being pulled."""
    world = World("bad:1", "good:1")
    fine = world.registry.pull

    async def pull(reference: str) -> MachineImage:
        if reference == "bad:1":
            world.registry.asked.append((asyncio.get_running_loop().time(), reference))
            raise errors.NotFound("bad:1: not found", reason="ErrImagePull")
        return await fine(reference)

    world.prepull._pull = pull
    async with world.running():
        await asyncio.sleep(3600)
    moments = [at for at, reference in world.registry.asked if reference == "bad:1"]
    gaps = [round(b - a) for a, b in itertools.pairwise(moments)]
    assert gaps[:5] == [10, 20, 40, 80, 160]
    assert all(295 <= gap <= 305 for gap in gaps[5:])
    assert [reference for _, reference in world.registry.asked].count("good:1") >= 5
    failed = [event for event in world.recorder.events if "Warning|ImagePrePullFailed|" in event]
    assert len(failed) == len(moments)
    assert all("bad:1: not found" in event for event in failed)


async def test_after_a_failure_that_is_over_the_next_one_is_tried_soon_again() -> None:
    world = World("a:1", interval_s=60)
    world.registry.down = True
    async with world.running():
        await asyncio.sleep(600)
        world.registry.down = False
        await asyncio.sleep(600)
        world.registry.down = True
        await asyncio.sleep(100)
        before = len(world.registry.asked)
        await asyncio.sleep(25)
    assert len(world.registry.asked) - before <= 3
    assert world.prepull._delay_s["a:1"] <= 80


async def test_a_bug_of_ours_does_not_end_the_agent(caplog: object) -> None:
    world = World("a:1", interval_s=60)
    world.registry.broken = True
    async with world.running():
        await asyncio.sleep(200)
        world.registry.broken = False
        await asyncio.sleep(200)
    assert world.changes == 1


async def test_nothing_is_begun_while_a_pod_pulls_or_waits_for_its_turn() -> None:
    world = World("a:1")
    async with world.slots, world.running():
        await asyncio.sleep(100)
        assert world.registry.asked == []
    async with world.running():
        await asyncio.sleep(2)
        assert len(world.registry.asked) == 1


async def test_a_pull_that_has_begun_delays_no_pod() -> None:
    world = World("a:1")
    world.registry.takes_s = 10_000
    async with world.running():
        await asyncio.sleep(5)
        began = asyncio.get_running_loop().time()
        async with world.slots, world.slots:
            assert asyncio.get_running_loop().time() == began


async def test_a_pod_that_gives_up_waiting_leaves_its_place() -> None:
    """Hazard: a pod deleted while it waits for a slot keeps images from being pulled ahead for ever."""
    slots = PullSlots(1)

    async def wait() -> None:
        async with slots:
            await asyncio.sleep(1)

    first, second = aio.spawn(wait(), name="first"), aio.spawn(wait(), name="second")
    await asyncio.sleep(0.1)
    await aio.cancel(second)
    await first
    async with asyncio.timeout(1):
        await slots.wait_unused()
    assert not slots.locked()


async def test_all_are_looked_at_again_when_one_may_be_gone_but_not_those_that_fail() -> None:
    world = World("a:1", "bad:1")
    fine = world.registry.pull

    async def pull(reference: str) -> MachineImage:
        found = await fine(reference)
        if reference == "bad:1":
            raise errors.NotFound("bad:1: not found", reason="ErrImagePull")
        return found

    world.prepull._pull = pull
    async with world.running():
        await asyncio.sleep(100)
        before = Counter(reference for _, reference in world.registry.asked)
        assert before["a:1"] == 1
        world.prepull.refresh()
        await asyncio.sleep(5)
    after = Counter(reference for _, reference in world.registry.asked)
    assert after == before + Counter({"a:1": 1})


async def test_looking_again_in_the_middle_of_a_pull_loses_nothing() -> None:
    world = World("a:1", "b:1")
    world.registry.takes_s = 10
    async with world.running():
        await asyncio.sleep(5)
        world.prepull.refresh()
        await asyncio.sleep(3000)
    asked = Counter(reference for _, reference in world.registry.asked)
    assert asked["a:1"] >= 4
    assert asked["b:1"] >= 4
    assert world.registry.most_at_once == 1


async def test_without_a_list_there_is_nothing_to_do() -> None:
    world = World()
    await world.prepull.run()
