"""Upkeep's threads: whoever is cancelled waits for their end, and ends as cancelled."""

import asyncio
import threading
from pathlib import Path

import pytest

from vzkubelet.aio import run_blocking, spawn
from vzkubelet.images import Upkeep, eviction


async def test_cancelled_work_that_fails_ends_as_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: the failure of a thread that nobody waits for any more takes the place of the cancellation, and whoever
    wanted an end (a time limit, a shutdown) gets an error that is none of ours."""
    begun, may_fail = threading.Event(), threading.Event()

    def fail(*_: object) -> int:
        begun.set()
        may_fail.wait()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(eviction, "make_room", fail)
    room = spawn(Upkeep(tmp_path / "images").make_room(1), name="room", on_crash=lambda _: None)
    await run_blocking(begun.wait)
    room.cancel()
    asyncio.get_running_loop().call_soon(may_fail.set)
    await asyncio.wait([room])
    assert room.cancelled()
