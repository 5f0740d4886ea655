"""Every format through a real registry into the store: bit for bit, and found without a registry afterwards."""

import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support import wire_images
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import RawRepository
from tests.support.wire_images import WireImage
from vzkubelet.errors import Integrity, InvalidInput
from vzkubelet.images import Library
from vzkubelet.images.formats import chunked

KIB = 1024
NOISE = random.Random(5)
DISK = (
    NOISE.randbytes(300 * KIB)
    + bytes(400 * KIB)
    + b"lines of text\n" * 20_000
    + bytes(256 * KIB)
    + NOISE.randbytes(77 * KIB + 5)
)
AUX = NOISE.randbytes(1000) + bytes(33 * KIB)
IMAGES = {
    "agoda": lambda: wire_images.agoda(DISK, AUX),
    "chunked": lambda: wire_images.chunked(DISK, AUX),
    "tart": lambda: wire_images.tart(DISK, AUX),
    "tart v1": lambda: wire_images.tart_v1(DISK, AUX),
    "tart v1 with its size": lambda: wire_images.tart_v1(DISK, AUX, says_size=True),
    "lume in parts": lambda: wire_images.lume(DISK, AUX),
    "lume": lambda: wire_images.lume(DISK, AUX, None),
    "lume lz4": lambda: wire_images.lume_lz4(DISK, AUX),
    "lume raw": lambda: wire_images.lume_raw(DISK, AUX),
}


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache")
    yield opened
    await opened.close()


@pytest.fixture
def repository(tmp_path: Path, registry: Registry) -> RawRepository:
    return RawRepository(registry.url, re.sub(r"[^a-z0-9]+", "-", f"pull{tmp_path.name}".lower()).strip("-"))


def put(repository: RawRepository, image: WireImage) -> str:
    """The reference that it has then."""
    for content in image.blobs.values():
        repository.put_blob(content)
    repository.put_manifest("1", image.manifest)
    return f"{repository.url.removeprefix('http://')}/{repository.path}:1"


@pytest.mark.parametrize("name", IMAGES)
async def test_bit_for_bit(name: str, tmp_path: Path, repository: RawRepository, library: Library) -> None:
    reference = put(repository, IMAGES[name]())
    pulled = await library.pull(reference, [])
    assert pulled.disk.read_bytes() == DISK
    assert pulled.aux.read_bytes() == AUX
    assert pulled.disk.stat().st_blocks * 512 < len(DISK) - 400 * KIB, "holes stay holes"
    assert not list((tmp_path / "cache" / "staging").iterdir())
    again = Library(tmp_path / "cache")
    assert await again.find(reference) == pulled
    await again.close()


async def test_zeros_as_a_whole_stream_are_not_fetched(
    repository: RawRepository, library: Library, registry: Registry
) -> None:
    size = 100 * KIB
    disk = NOISE.randbytes(size) + bytes(size) + NOISE.randbytes(size)
    image = wire_images.tart(disk, AUX, size)
    reference = put(repository, image)
    zeros = image.layer("application/vnd.cirruslabs.tart.disk", 1)
    async with RegistryProxy(registry.url) as proxy:
        pulled = await library.pull(reference.replace(registry.host, proxy.host), [])
        assert zeros["digest"] not in proxy.passed
    assert pulled.disk.read_bytes() == disk


# --- Images that lie


def spoil(image: WireImage, layer: dict[str, Any], position: int) -> None:
    """A byte of a blob is another one, and its digest is right."""
    content = bytearray(image.blobs[layer["digest"]])
    content[position] ^= 0xFF
    layer["digest"] = wire_images.sha256(bytes(content))
    image.blobs[layer["digest"]] = bytes(content)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("chunked", chunked.DISK_PACK),
        ("tart", "application/vnd.cirruslabs.tart.disk"),
        ("lume in parts", "application/vnd.trycua.lume.disk"),
    ],
)
@pytest.mark.parametrize("position", [40, 2000, -20])
async def test_content_that_is_not_what_is_declared(
    name: str, media_type: str, position: int, repository: RawRepository, library: Library
) -> None:
    image = IMAGES[name]()
    spoil(image, image.layer(media_type), position)
    reference = put(repository, image)
    with pytest.raises(Integrity, match="damaged in the registry or on the way") as caught:
        await library.pull(reference, [])
    assert reference in str(caught.value)
    assert await library.find(reference) is None
    # What was verified of it is kept, and the next pull is as honest.
    with pytest.raises(Integrity, match="damaged in the registry or on the way"):
        await library.pull(reference, [])


async def test_index_that_is_not_one(repository: RawRepository, library: Library) -> None:
    image = wire_images.chunked(DISK, AUX)
    spoil(image, image.layer(chunked.DISK_INDEX), 0)
    with pytest.raises(InvalidInput, match="is malformed"):
        await library.pull(put(repository, image), [])


async def test_frame_that_says_it_expands_to_more_than_a_chunk(repository: RawRepository, library: Library) -> None:
    """The library that decodes believes the size in a frame: it must not be asked before that was looked at."""
    image = wire_images.chunked(bytes(range(256)) * 400, AUX)
    layer = image.layer(chunked.DISK_PACK)
    frame = bytearray(image.blobs[layer["digest"]])
    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    frame[4] |= 0b1100_0000  # the content's size has 8 bytes now, whatever they say
    layer["digest"] = wire_images.sha256(bytes(frame))
    image.blobs[layer["digest"]] = bytes(frame)
    with pytest.raises(Integrity, match=r"does not expand to|is no zstd frame|has another digest"):
        await library.pull(put(repository, image), [])


async def test_size_that_no_blob_can_expand_to(repository: RawRepository, library: Library) -> None:
    image = wire_images.agoda(DISK, AUX)
    layer = image.layer("application/vnd.agoda.macosvz.disk")
    layer["annotations"]["com.agoda.macosvz.content.uncompressed-size"] = str(100 * 2**30)
    with pytest.raises(InvalidInput, match="cannot expand to 107374182400 bytes"):
        await library.pull(put(repository, image), [])


async def test_hardware_model_of_another_host_is_refused_before_the_disk_is_moved(
    tmp_path: Path, registry: Registry, repository: RawRepository
) -> None:
    image = wire_images.agoda(DISK, AUX)
    reference = put(repository, image)
    asked: list[bytes] = []

    def supports(hardware_model: bytes) -> str | None:
        asked.append(hardware_model)
        return "it needs macOS 99"

    choosy = Library(tmp_path / "choosy", supports=supports)
    async with RegistryProxy(registry.url) as proxy:
        with pytest.raises(InvalidInput, match="cannot run on this host: it needs macOS 99"):
            await choosy.pull(reference.replace(registry.host, proxy.host), [])
        assert image.layer("application/vnd.agoda.macosvz.disk")["digest"] not in proxy.passed
    await choosy.close()
    assert asked == [wire_images.HARDWARE_MODEL]
