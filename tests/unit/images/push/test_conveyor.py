"""Work in order, in step with the loop, and never left running."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from vzkubelet.aio import cancel, spawn
from vzkubelet.images.push.conveyor import in_order, stepped, until_cancelled

pytestmark = pytest.mark.looptime(False)


def test_results_are_in_order_and_few_are_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item * 2, items(), threads=3, name="test")
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(taken) <= 5 + 2 * 3 + 3
    assert list(results) == [item * 2 for item in range(5, 100)]


def test_failure_of_one_ends_all() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError(item)
        return item

    results = in_order(work, iter(range(100)), threads=2, name="test")
    with pytest.raises(ValueError, match="3"):
        list(results)


async def test_steps_are_taken_off_the_loop() -> None:
    threads: set[int] = set()

    def work() -> Iterator[int]:
        for number in range(3):
            threads.add(threading.get_ident())
            yield number

    async with aclosing(stepped(work(), name="test")) as steps:
        assert [step async for step in steps] == [0, 1, 2]
    assert threading.get_ident() not in threads


async def test_failure_of_a_step_is_the_consumers() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    async with aclosing(stepped(work(), name="test")) as steps:
        assert await anext(steps) == 1
        with pytest.raises(ValueError, match="broken"):
            await anext(steps)


async def test_cancelling_interrupts_a_step_and_ends_the_work() -> None:
    waiting, interrupted, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> Iterator[int]:
        try:
            waiting.set()
            interrupted.wait()
            yield 1
        finally:
            ended.set()

    async def consume() -> None:
        async with aclosing(stepped(work(), name="test", interrupt=interrupted.set)) as steps:
            async for _ in steps:
                pass

    task = spawn(consume(), name="consume")
    await asyncio.to_thread(waiting.wait)
    await cancel(task)
    assert ended.is_set()


async def test_cancelled_work_is_waited_for() -> None:
    began, ended = threading.Event(), threading.Event()
    done: list[str] = []

    def work(is_wanted: object) -> None:
        assert callable(is_wanted)
        began.set()
        while is_wanted():
            ended.wait(0.001)
        done.append("seen")

    task = spawn(until_cancelled(work), name="work")
    await asyncio.to_thread(began.wait)
    await cancel(task)
    assert done == ["seen"]
