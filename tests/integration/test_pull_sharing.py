"""Who wants the same content at the same time, in this process or another, waits for one download and sees it come."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support import pulls
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, RawRepository, make_files
from vzkubelet.aio import cancel, spawn
from vzkubelet.images import Library
from vzkubelet.ports import PullProgress

WAIT_S = 30


@pytest_asyncio.fixture
async def proxy(registry: Registry) -> AsyncIterator[RegistryProxy]:
    async with RegistryProxy(registry.url) as started:
        yield started


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache")
    yield opened
    await opened.close()


@pytest.fixture
def name(tmp_path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"sharing{tmp_path.name}".lower()).strip("-")


def disk_bytes(registry: Registry, proxy: RegistryProxy, name: str) -> tuple[int, int]:
    """Of the disk's blobs: what went through the proxy, and what they have."""
    layers = [layer for layer in RawRepository(registry.url, name).manifest("1")["layers"] if "disk" in str(layer)]
    return sum(proxy.passed[layer["digest"]] for layer in layers), sum(layer["size"] for layer in layers)


@pytest.mark.parametrize("format_", pulls.FORMATS)
async def test_two_processes_and_five_pods_make_one_download(
    format_: str, tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    files = make_files(tmp_path / "files", size_bytes=40 * MIB, data_bytes=20 * MIB)
    await pulls.publish(files, f"{registry.host}/{name}:1", format_)
    reference = f"{proxy.host}/{name}:1"
    proxy.hold_after_bytes = 3 * MIB
    others = [await pulls.start(tmp_path / "cache", reference) for _ in range(2)]
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    pods = [spawn(library.pull(reference, []), name="pull") for _ in range(5)]
    await asyncio.sleep(0.3)
    proxy.release.set()
    for image in await asyncio.wait_for(asyncio.gather(*pods), WAIT_S):
        assert files.same_as(image.disk, image.aux)
    for other in others:
        _, errors = await asyncio.wait_for(other.communicate(), WAIT_S)
        assert other.returncode == 0, errors.decode()
    passed, size = disk_bytes(registry, proxy, name)
    assert passed == size


async def test_who_waits_for_another_process_sees_how_far_it_is(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    files = make_files(tmp_path / "files", size_bytes=60 * MIB, data_bytes=40 * MIB)
    await pulls.publish(files, f"{registry.host}/{name}:1", "agoda")
    reference = f"{proxy.host}/{name}:1"
    proxy.hold_after_bytes = 30 * MIB
    other = await pulls.start(tmp_path / "cache", reference)
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    seen: list[PullProgress] = []
    far = asyncio.Event()

    def watch(progress: PullProgress) -> None:
        seen.append(progress)
        if progress.stage == "another process is pulling it" and progress.done_bytes > 10 * MIB:
            far.set()

    ours = spawn(library.pull(reference, [], watch), name="pull")
    await asyncio.wait_for(far.wait(), WAIT_S)
    assert all(progress.done_bytes <= progress.total_bytes for progress in seen if progress.total_bytes)
    proxy.release.set()
    image = await asyncio.wait_for(ours, WAIT_S)
    assert files.same_as(image.disk, image.aux)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    await asyncio.wait_for(other.communicate(), WAIT_S)


async def test_who_waits_for_a_process_that_dies_goes_on_with_what_it_had(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    files = make_files(tmp_path / "files", size_bytes=60 * MIB, data_bytes=40 * MIB)
    await pulls.publish(files, f"{registry.host}/{name}:1", "agoda")
    reference = f"{proxy.host}/{name}:1"
    proxy.hold_after_bytes = 30 * MIB
    other = await pulls.start(tmp_path / "cache", reference)
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    waiting = asyncio.Event()
    ours = spawn(library.pull(reference, [], lambda progress: waiting.set() if progress.stage else None), name="pull")
    await asyncio.wait_for(waiting.wait(), WAIT_S)
    other.send_signal(signal.SIGKILL)
    await other.communicate()
    proxy.release.set()
    image = await asyncio.wait_for(ours, WAIT_S)
    assert files.same_as(image.disk, image.aux)
    passed, size = disk_bytes(registry, proxy, name)
    assert passed <= size + 16 * MIB


async def test_whoever_leaves_does_not_take_the_download_along(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    files = make_files(tmp_path / "files", size_bytes=20 * MIB, data_bytes=10 * MIB)
    await pulls.publish(files, f"{registry.host}/{name}:1", "chunked")
    reference = f"{proxy.host}/{name}:1"
    proxy.hold_after_bytes = 2 * MIB
    first, second = (spawn(library.pull(reference, []), name="pull") for _ in range(2))
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    await cancel(first)
    proxy.release.set()
    image = await asyncio.wait_for(second, WAIT_S)
    assert files.same_as(image.disk, image.aux)
    passed, size = disk_bytes(registry, proxy, name)
    assert passed == size
