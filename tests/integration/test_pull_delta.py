"""A new version beside an old one: only what differs is fetched, in whatever format the old one came."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support import pulls, wire_images
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, RawRepository, VmFiles
from tests.support.xfs_volume import xfs_volume
from vzkubelet.images import Library
from vzkubelet.images.pull import writer
from vzkubelet.images.store import Store

SIZE = 24 * MIB
KIB = 1024


@pytest_asyncio.fixture
async def proxy(registry: Registry) -> AsyncIterator[RegistryProxy]:
    async with RegistryProxy(registry.url) as started:
        yield started


@pytest.fixture
def name(tmp_path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"delta{tmp_path.name}".lower()).strip("-")


@pytest.fixture(params=["copied", "cloned"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A store on a file system that cannot share blocks, and on one that can."""
    if request.param == "copied":
        yield tmp_path / "cache"
        return
    with xfs_volume(tmp_path) as mounted:
        yield mounted / "cache"


@pytest_asyncio.fixture
async def library(root: Path) -> AsyncIterator[Library]:
    opened = Library(root)
    yield opened
    await opened.close()


def disk(directory: Path, content: bytes) -> VmFiles:
    directory.mkdir(parents=True)
    files = VmFiles(directory / "disk", directory / "aux")
    files.disk.write_bytes(content)
    files.aux.write_bytes(b"aux" * 1000)
    return files


def noise(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def changed(content: bytes) -> bytes:
    """Other noise in two places, zeros in a third, data where zeros were."""
    new = bytearray(content)
    new[3 * MIB : 3 * MIB + 100_000] = noise(2, 100_000)
    new[9 * MIB + 5 : 9 * MIB + 6] = b"!"
    new[15 * MIB : 16 * MIB] = bytes(MIB)
    return bytes(new)


@pytest.mark.parametrize("before", ["agoda", "chunked", "tart"])
async def test_only_what_differs_is_fetched(
    before: str, tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    old, new = disk(tmp_path / "old", noise(1)), disk(tmp_path / "new", changed(noise(1)))
    await pulls.publish(old, f"{registry.host}/{name}:1", before)
    await pulls.publish(new, f"{registry.host}/{name}:2", "chunked")
    first = await library.pull(f"{proxy.host}/{name}:1", [])
    proxy.passed.clear()
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert new.same_as(second.disk, second.aux)
    assert old.same_as(first.disk, first.aux), "the old version is what it was"
    assert proxy.passed.total() <= MIB, "two chunks of noise, the index, and the small documents"
    hole_bytes = SIZE - second.disk.stat().st_blocks * 512
    assert hole_bytes >= MIB - 128 * KIB, "what has become zeros is a hole"


@pytest.mark.parametrize("size", [SIZE - 5 * MIB + 12345, SIZE + 3 * MIB + 777])
async def test_disk_of_another_size(
    size: int, tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    content = noise(3, 30 * MIB)
    old, new = disk(tmp_path / "old", content[:SIZE]), disk(tmp_path / "new", content[:size])
    await pulls.publish(old, f"{registry.host}/{name}:1", "chunked")
    await pulls.publish(new, f"{registry.host}/{name}:2", "chunked")
    await library.pull(f"{proxy.host}/{name}:1", [])
    proxy.passed.clear()
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert new.same_as(second.disk, second.aux)
    assert proxy.passed.total() <= max(0, size - SIZE) + MIB


async def test_streams_of_tart_that_did_not_change(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    repository = RawRepository(registry.url, name)
    old = noise(4, 4 * MIB)
    new = old[:MIB] + noise(5, MIB) + old[2 * MIB :]
    for tag, content in (("1", old), ("2", new)):
        image = wire_images.tart(content, b"aux", MIB)
        for blob in image.blobs.values():
            repository.put_blob(blob)
        repository.put_manifest(tag, image.manifest)
    await library.pull(f"{proxy.host}/{name}:1", [])
    proxy.passed.clear()
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert second.disk.read_bytes() == new
    assert proxy.passed.total() <= MIB + 100 * KIB


async def test_the_same_disk_in_another_format_is_not_fetched(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    """The index claims the digest of the whole file; the file that is here has the chunks."""
    files = disk(tmp_path / "files", noise(6))
    await pulls.publish(files, f"{registry.host}/{name}:1", "agoda")
    await pulls.publish(files, f"{registry.host}/{name}:2", "chunked")
    first = await library.pull(f"{proxy.host}/{name}:1", [])
    proxy.passed.clear()
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert second.disk == first.disk
    assert proxy.passed.total() <= 100 * KIB


@pytest.mark.parametrize("root", ["copied"], indirect=True)
async def test_rot_in_the_old_version_is_not_taken_over(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    """What is copied is hashed on the way. The file's own times tell nothing here: the medium has changed."""
    old, new = disk(tmp_path / "old", noise(7)), disk(tmp_path / "new", changed(noise(7)))
    await pulls.publish(old, f"{registry.host}/{name}:1", "chunked")
    await pulls.publish(new, f"{registry.host}/{name}:2", "chunked")
    first = await library.pull(f"{proxy.host}/{name}:1", [])
    record = first.disk.with_name(first.disk.name + ".json")
    first.disk.chmod(0o600)
    with first.disk.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"rot")
    # The record of an untouched file, as a rotten sector would leave it.
    text = record.read_text()
    status = first.disk.stat()
    record.write_text(re.sub(r'"ctimeNs": *\d+', f'"ctimeNs": {status.st_ctime_ns}', text))
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert new.same_as(second.disk, second.aux)


async def test_killed_while_it_goes_on_from_an_old_version(
    tmp_path: Path, root: Path, registry: Registry, proxy: RegistryProxy, library: Library, name: str
) -> None:
    content = noise(8)
    old = disk(tmp_path / "old", content)
    new = disk(tmp_path / "new", content[: 8 * MIB] + noise(9, 12 * MIB) + content[20 * MIB :])
    await pulls.publish(old, f"{registry.host}/{name}:1", "chunked")
    await pulls.publish(new, f"{registry.host}/{name}:2", "chunked")
    await library.pull(f"{proxy.host}/{name}:1", [])
    proxy.passed.clear()
    proxy.hold_after_bytes = 6 * MIB
    process = await pulls.start(root, f"{proxy.host}/{name}:2")
    await asyncio.wait_for(proxy.held.wait(), 30)
    process.kill()
    await process.communicate()
    proxy.hold_after_bytes = None
    proxy.release.set()
    second = await library.pull(f"{proxy.host}/{name}:2", [])
    assert new.same_as(second.disk, second.aux)
    assert proxy.passed.total() <= 12 * MIB + 16 * MIB


@pytest.mark.parametrize("root", ["cloned"], indirect=True)
async def test_clone_takes_no_space(root: Path) -> None:
    source = root.parent / "source"
    source.write_bytes(noise(10))
    file = writer.RawFile(root.parent / "data")
    assert file.clone(source)
    file.close()
    assert (root.parent / "data").read_bytes() == noise(10)


async def test_blocks_taken_over_are_no_younger_than_when_they_were_read(
    tmp_path: Path, registry: Registry, library: Library, name: str, root: Path
) -> None:
    """A clone shares the blocks of an older version unread: should they have rotted, the next scrub must look."""
    contents = [noise(1), changed(noise(1))]
    images = []
    for tag, content in enumerate(contents):
        files = disk(tmp_path / f"files{tag}", content)
        await pulls.publish(files, f"{registry.host}/{name}:{tag}", "chunked")
        images.append(await library.pull(f"{registry.host}/{name}:{tag}", []))
        if not tag:
            store = Store(root)
            record_file = store.contents.record_path(f"sha256:{images[0].disk.name}")
            record_file.write_text(
                re.sub(r'"verifiedAt": ?"[^"]*"', '"verifiedAt":"2026-01-02T03:04:05Z"', record_file.read_text())
            )
    record = store.contents.record(f"sha256:{images[1].disk.name}")
    assert record is not None
    assert record.verified_at == "2026-01-02T03:04:05Z"
    assert not list((root / "staging").iterdir())
