"""The node in memory; whatever a test left running is let go at its end."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.unit.pods.node import Node
from vzkubelet import aio


@pytest.fixture(autouse=True)
def files_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads know no virtual time: while one writes, hours pass. Here a write takes one turn of the loop."""

    async def run_blocking(function: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    monkeypatch.setattr(aio, "run_blocking", run_blocking)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest_asyncio.fixture
async def node(tmp_path: Path, files_take_no_time: None) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    await made.kill()
    assert not made.doubled()
