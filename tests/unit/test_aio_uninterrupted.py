"""Work that must not be abandoned half done."""

import asyncio

import pytest

from vzkubelet.aio import spawn, uninterrupted


async def test_result_and_error_come_through() -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(1)
        if not value:
            raise ValueError("zero")
        return value

    assert await uninterrupted(answer(3), name="work") == 3
    with pytest.raises(ValueError, match="zero"):
        await uninterrupted(answer(0), name="work")


@pytest.mark.parametrize("fails", [False, True])
async def test_cancellation_waits_for_the_end_however_often_it_comes(fails: bool) -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(10)
        done.append(True)
        if fails:
            raise ValueError("its own error is not what the canceller asked for")

    task = spawn(uninterrupted(work(), name="work"), name="caller")
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]
