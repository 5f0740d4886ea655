import asyncio
import logging

import pytest

from vzkubelet import aio


async def fail(text: str) -> None:
    raise ValueError(text)


async def test_spawn_names_the_task_and_returns_its_result() -> None:
    async def answer() -> int:
        return 42

    task = aio.spawn(answer(), name="answer")
    assert task.get_name() == "answer"
    assert await task == 42


async def test_crash_without_a_listener_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    task = aio.spawn(fail("disk on fire"), name="reflector")
    await asyncio.wait([task])
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "task reflector failed: disk on fire"
    assert record.exc_info


async def test_crash_goes_to_its_listener_and_not_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[BaseException] = []
    task = aio.spawn(fail("x"), name="lease", on_crash=seen.append)
    await asyncio.wait([task])
    assert [str(exc) for exc in seen] == ["x"]
    assert not caplog.records


async def test_cancellation_is_not_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[BaseException] = []
    task = aio.spawn(asyncio.sleep(3600), name="sleeper", on_crash=seen.append)
    await asyncio.sleep(0)
    await aio.cancel(task)
    assert task.cancelled()
    assert not seen
    assert not caplog.records


async def test_spawned_task_is_kept_although_nobody_holds_it() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(1)
        done.set()

    aio.spawn(work(), name="forgotten")
    import gc

    gc.collect()
    async with asyncio.timeout(10):
        await done.wait()


async def test_cancel_waits_for_cleanup_and_swallows_its_failure() -> None:
    cleaned = False

    async def stubborn() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(5)
            cleaned = True
            raise ValueError("cleanup failed")

    task = aio.spawn(stubborn(), name="stubborn", on_crash=lambda _: None)
    await asyncio.sleep(0)
    await aio.cancel(task, None)
    assert cleaned


async def test_cancel_from_inside_does_not_cancel_itself() -> None:
    async def stop_all() -> str:
        await aio.cancel(asyncio.current_task())
        return "still here"

    assert await aio.spawn(stop_all(), name="stopper") == "still here"


async def test_blocking_pool_runs_and_ends_its_threads() -> None:
    pool = aio.BlockingPool("disk", 2)
    assert sum(await asyncio.gather(pool.run(int, "1"), pool.run(int, "2"))) == 3
    pool.close()


def test_traced_logs_duration_and_outcome_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("trace")
    with caplog.at_level(logging.DEBUG, "trace"):
        with aio.traced(logger, "clone", pod="a/b"):
            pass
        with pytest.raises(ValueError, match="x"), aio.traced(logger, "boot"):
            raise ValueError("x")
    done, failed = (record.getMessage() for record in caplog.records)
    assert done.startswith("clone done in 0.00")
    assert "'pod': 'a/b'" in done
    assert failed.startswith("boot failed in 0.00")
