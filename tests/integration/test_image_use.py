"""What counts as a use of an image, by which collection chooses."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.vm_images import make_files, push
from vzkubelet.images import Library
from vzkubelet.images.store import Store


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache")
    yield opened
    await opened.close()


async def test_book_keeping_is_no_use_of_an_image(tmp_path: Path, registry: Registry, library: Library) -> None:
    """The image that was used longest ago is the first to be collected, however often its records are looked at."""
    path = f"use/{tmp_path.name.lower()}"
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    image = await library.pull(f"{registry.host}/{path}:1", [])
    store = Store(tmp_path / "cache")
    used_at = store.last_used_at(image.manifest_digest)
    await asyncio.sleep(0.02)
    assert (await library.known(image.reference)) is not None
    assert (await library.known(f"{registry.host}/{path}:none")) is None
    assert store.last_used_at(image.manifest_digest) == used_at
    assert (await library.find(image.reference)) is not None
    assert store.last_used_at(image.manifest_digest) != used_at
