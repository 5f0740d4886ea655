"""Unit tests: pure or with fakes in memory. No socket, no process, no real sleep, virtual time, nothing left behind.

`@pytest.mark.looptime(False)` gives a test the real clock; threads do not know virtual time.
"""

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio

TIMEOUT_S = 5
THREAD_GRACE_S = 1.0
"""An executor's threads end a moment after it was told to."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if not item.path.is_relative_to(here):
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        # On a test without a loop the marker would make one, and leave it.
        if pytest_asyncio.is_async_test(item) and item.get_closest_marker("looptime") is None:
            item.add_marker(pytest.mark.looptime)


@pytest.fixture(autouse=True)
def nothing_left_behind(outside_world_refused: None) -> Iterator[None]:
    """Fails the test when it leaves a thread or a descriptor. Set up before the loop, so it looks after its end."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    left = _settle(lambda: set(threading.enumerate()) - threads)
    if left:
        pytest.fail(f"threads still run: {', '.join(sorted(thread.name for thread in left))}")
    if _descriptors() != descriptors:
        gc.collect()  # a cycle may hold what is closed when it goes; ResourceWarning catches what should not
        opened = {number: target for number, target in _descriptors().items() if number not in descriptors}
        if opened:
            pytest.fail(f"descriptors still open: {opened}")


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:
    """Fails an async test when it leaves a task. A test without a loop is not given one for it."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("tasks_watched")


@pytest_asyncio.fixture
async def tasks_watched() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        pytest.fail(f"tasks still run: {', '.join(sorted(task.get_name() for task in left))}")


@pytest.fixture
def outside_world_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes sockets (but pairs), processes and sleeping raise, with the level such a test belongs to."""
    for owner, name in (
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket.socket, "bind"),
        (socket, "getaddrinfo"),
        (subprocess.Popen, "__init__"),
        (os, "fork"),
        (os, "posix_spawn"),
        (os, "system"),
        (time, "sleep"),
    ):
        monkeypatch.setattr(owner, name, _refusal(f"{getattr(owner, '__name__', owner)}.{name}"))


def _refusal(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError(f"{what} in a unit test: use a fake, or move the test to tests/integration")

    return refuse


def _settle(left: Callable[[], set[threading.Thread]]) -> set[threading.Thread]:
    deadline = time.monotonic() + THREAD_GRACE_S
    for thread in left():
        thread.join(max(0.0, deadline - time.monotonic()))
    return left()


def _descriptors() -> dict[int, str]:
    """Open descriptors and, where the system tells, what they are."""
    found = {}
    for name in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            os.fstat(int(name.name))
            found[int(name.name)] = str(name.resolve())
    return found
