"""Files take one turn of the loop: threads know no virtual time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from vzkubelet import aio


@pytest.fixture(autouse=True)
def files_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_blocking(function: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    monkeypatch.setattr(aio, "run_blocking", run_blocking)
