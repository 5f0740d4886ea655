"""Stages in threads: everything comes through in order, a failure ends all and is told, nobody waits for ever."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from vzkubelet.images.pull.pipeline import Inlet, Pipeline


class Doubling:
    """Two stages: numbers are doubled, then kept."""

    def __init__(
        self, fail_first: Callable[[int], bool] = lambda _: False, fail_last: Callable[[int], bool] = lambda _: False
    ) -> None:
        self.kept: list[int] = []
        self.pipeline = Pipeline("doubling")
        self._fail_first, self._fail_last = fail_first, fail_last
        self._last: Inlet[int] = self.pipeline.stage(self._keep, 2)
        self.first: Inlet[int] = self.pipeline.stage(self._double, 2, feeds=(self._last.end,), is_first=True)

    def _double(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            if self._fail_first(number):
                raise ValueError(f"first {number}")
            self._last.put(2 * number)

    def _keep(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            if self._fail_last(number):
                raise ValueError(f"last {number}")
            self.kept.append(number)

    async def run(self, count: int) -> None:
        async with self.pipeline:
            for number in range(count):
                await self.first.send(number)


async def test_everything_comes_through_in_order() -> None:
    work = Doubling()
    await work.run(1000)
    assert work.kept == [2 * number for number in range(1000)]


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: Doubling(fail_first=lambda number: number == 5), "first 5"),
        (lambda: Doubling(fail_last=lambda number: number == 10), "last 10"),
        (lambda: Doubling(fail_first=lambda number: number == 0), "first 0"),
        (lambda: Doubling(fail_first=lambda n: n == 900, fail_last=lambda n: n == 2), "last 2"),
    ],
)
async def test_failure_of_a_stage_ends_all_and_is_raised(work: Callable[[], Doubling], words: str) -> None:
    made = work()
    with pytest.raises(ValueError, match=f"^{words}$"):
        await made.run(1000)
    assert made.pipeline.has_failed()


async def test_error_of_the_feeder_is_raised_when_the_threads_have_ended() -> None:
    work = Doubling()

    async def feed() -> None:
        async with work.pipeline:
            await work.first.send(1)
            raise KeyError

    with pytest.raises(KeyError):
        await feed()
    assert work.pipeline.has_failed()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pull")]


async def test_cancelled_while_a_queue_is_full() -> None:
    go_on = threading.Event()

    def wait(numbers: Iterator[int]) -> None:
        for _ in numbers:
            go_on.wait()

    pipeline = Pipeline("waiting")
    inlet: Inlet[int] = pipeline.stage(wait, 1, is_first=True)

    async def feed() -> None:
        async with pipeline:
            for number in range(10):
                await inlet.send(number)

    task = asyncio.get_running_loop().create_task(feed())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pull")]
