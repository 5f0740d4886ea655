"""What an interrupted pull leaves, and what the next one makes of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support import pulls
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, VmFiles, make_files
from vzkubelet.aio import cancel, spawn
from vzkubelet.images import Library
from vzkubelet.images.pull import ledger

WAIT_S = 30
SIZE = 60 * MIB
DATA = 40 * MIB
LEFT_AT = 30 * MIB


@pytest_asyncio.fixture
async def proxy(registry: Registry) -> AsyncIterator[RegistryProxy]:
    async with RegistryProxy(registry.url) as started:
        yield started


@pytest.fixture(params=pulls.FORMATS)
def format_(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Left:
    """A pull that was cancelled after 30 of 40 MiB."""

    def __init__(self, root: Path, reference: str, files: VmFiles, proxy: RegistryProxy) -> None:
        self.root, self.reference, self.files, self.proxy = root, reference, files, proxy
        self.passed_before = proxy.passed.total()

    @property
    def data(self) -> Path:
        """What there is of the disk."""
        return max((self.root / "staging").glob("*/data"), key=lambda path: path.stat().st_size)

    async def go_on(self) -> int:
        """Pull again: the result is right; bytes that passed."""
        async with opened(self.root) as library:
            image = await asyncio.wait_for(library.pull(self.reference, []), WAIT_S)
        assert self.files.same_as(image.disk, image.aux)
        assert not list((self.root / "staging").iterdir())
        return self.proxy.passed.total() - self.passed_before


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Library]:
    library = Library(root)
    try:
        yield library
    finally:
        await library.close()


@pytest_asyncio.fixture
async def left(tmp_path: Path, registry: Registry, proxy: RegistryProxy, format_: str) -> Left:
    name = re.sub(r"[^a-z0-9]+", "-", f"resume{tmp_path.name}".lower()).strip("-")
    files = make_files(tmp_path / "files", size_bytes=SIZE, data_bytes=DATA)
    await pulls.publish(files, f"{registry.host}/{name}:1", format_)
    reference = f"{proxy.host}/{name}:1"
    proxy.hold_after_bytes = LEFT_AT
    far = asyncio.Event()
    async with opened(tmp_path / "cache") as library:
        pull = spawn(
            library.pull(reference, [], lambda progress: far.set() if progress.done_bytes > LEFT_AT // 2 else None),
            name="pull",
        )
        await asyncio.wait_for(far.wait(), WAIT_S)
        if format_ != "chunked":  # its packs are held one by one
            await asyncio.wait_for(proxy.held.wait(), WAIT_S)
        await cancel(pull)
        assert await library.find(reference) is None
    proxy.hold_after_bytes = None
    proxy.release.set()
    return Left(tmp_path / "cache", reference, files, proxy)


async def test_goes_on(left: Left) -> None:
    assert await left.go_on() <= DATA - LEFT_AT // 2 + 16 * MIB


@pytest.mark.parametrize("format_", ["agoda"], indirect=True)
async def test_data_that_was_damaged_meanwhile_is_fetched_again(left: Left) -> None:
    """The digest of the whole is of the file as it is in the end, whatever the ledger says."""
    with left.data.open("r+b") as data:
        data.seek(MIB)
        data.write(b"something else")
    assert await left.go_on() >= DATA


async def test_data_that_is_gone(left: Left) -> None:
    left.data.unlink()
    assert await left.go_on() >= DATA


async def test_ledger_of_nonsense(left: Left) -> None:
    path = left.data.with_name("ledger")
    path.write_bytes(b"nonsense" * 1000)
    assert await left.go_on() >= DATA


async def test_after_a_loss_of_power_nothing_is_believed_unread(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not synced is fetched again."""
    monkeypatch.setattr(ledger, "boot_id", lambda: "another boot")
    with left.data.open("r+b") as data:
        data.truncate(MIB)  # as a file system does whose journal knew of no more
        data.truncate(SIZE)
    await left.go_on()
