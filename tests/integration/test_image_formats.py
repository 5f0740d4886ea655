"""Golden images of every wire format in a real registry, pulled into the store."""

import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.conformance.golden_images import AUX, BUILT, DISK, GOLDEN
from tests.support.vm_images import RawRepository, listed
from tests.support.wire_images import WireImage
from vzkubelet.errors import Integrity, InvalidInput
from vzkubelet.images import Library
from vzkubelet.model import oci
from vzkubelet.model.oci import Platform

MAC, LINUX = Platform(os="darwin", architecture="arm64"), Platform(os="linux", architecture="arm64")


@pytest.fixture
def repository(tmp_path: Path, registry: Registry) -> RawRepository:
    """One of this test alone."""
    return RawRepository(registry.url, f"formats/{tmp_path.name.lower().replace('[', '-').replace(']', '')}")


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache", [MAC, LINUX])
    yield opened
    await opened.close()


def put(repository: RawRepository, image: WireImage, tag: str) -> dict[str, Any]:
    """Push an image as it is. Returns the descriptor of its manifest."""
    for content in image.blobs.values():
        repository.put_blob(content)
    digest = repository.put_manifest(tag, image.manifest_bytes)
    return {"mediaType": oci.MANIFEST, "digest": digest, "size": len(image.manifest_bytes)}


@pytest.mark.parametrize("name", sorted(GOLDEN))
async def test_golden_image_is_pulled_bit_for_bit(
    name: str, repository: RawRepository, registry: Registry, library: Library
) -> None:
    put(repository, BUILT[name], "1")
    pulled = await library.pull(f"{registry.host}/{repository.path}:1", [])
    machine = GOLDEN[name].machine
    assert pulled.disk.read_bytes() == DISK
    assert pulled.aux.read_bytes() == AUX
    assert (pulled.os, pulled.architecture) == (machine.os, machine.architecture)
    assert (pulled.hardware_model, pulled.machine_id) == (machine.hardware_model, machine.machine_id)
    assert (pulled.cpu_min, pulled.memory_min_bytes) == (machine.cpu_min, machine.memory_min_bytes)
    assert pulled.defaults == machine.defaults


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("chunked", "application/vnd.macos-vz-kubelet.disk.pack.v1"),
        ("tart", "application/vnd.cirruslabs.tart.disk.v2"),
        ("lume", "application/vnd.trycua.lume.disk.v1"),
        ("lume-lz4", "application/octet-stream+lz4"),
    ],
)
async def test_parts_in_each_others_place_are_refused(
    name: str, layers: str, repository: RawRepository, registry: Registry, library: Library, tmp_path: Path
) -> None:
    """Every blob is what its digest says; it is what they decode to that is not what the manifest says."""
    image = WireImage(copy.deepcopy(BUILT[name].manifest), BUILT[name].blobs)
    first, second = image.layer(layers, 0), image.layer(layers, 1)
    for key in ("digest", "size"):
        first[key], second[key] = second[key], first[key]
    put(repository, image, "1")
    with pytest.raises((Integrity, InvalidInput)):
        await library.pull(f"{registry.host}/{repository.path}:1", [])
    assert await listed(tmp_path / "cache") == set()


@pytest.mark.parametrize("name", sorted(GOLDEN))
async def test_image_after_an_ordinary_one_for_the_same_platform(
    name: str, repository: RawRepository, registry: Registry, library: Library
) -> None:
    """A tag that container runtimes and this agent use alike; tart's and Lume's entries do not say what they are."""
    empty = {"mediaType": oci.IMAGE_CONFIG, "digest": repository.put_blob(b"{}"), "size": 2}
    container = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": empty, "layers": []}
    content = json.dumps(container).encode()
    entries: list[dict[str, Any]] = [
        {"mediaType": oci.MANIFEST, "digest": repository.put_manifest("container", content), "size": len(content)},
        put(repository, BUILT[name], "machine"),
    ]
    for entry in entries:
        entry["platform"] = {"os": "darwin", "architecture": "arm64"}
    entries[1]["artifactType"] = BUILT[name].manifest.get("artifactType", "")
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}
    repository.put_manifest("all", index, oci.INDEX)
    pulled = await library.pull(f"{registry.host}/{repository.path}:all", [])
    assert pulled.manifest_digest == entries[1]["digest"]
    assert pulled.disk.read_bytes() == DISK
    index["manifests"] = entries[:1]
    repository.put_manifest("none", index, oci.INDEX)
    with pytest.raises(InvalidInput, match="no virtual machine image for darwin/arm64 or linux/arm64 in the index"):
        await library.pull(f"{registry.host}/{repository.path}:none", [])
