"""Whole images through a real registry: bit for bit, once, and nothing left when something goes wrong."""

import asyncio
import errno
import gzip
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import LINUX, MIB, RawRepository, listed, make_files, push
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Exhausted, Integrity, InvalidInput, Unavailable
from vzkubelet.images import Library, Machine
from vzkubelet.images.formats import agoda
from vzkubelet.model.oci import Platform

WAIT_S = 30
OpenLibrary = Callable[..., Library]


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache")
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def proxy(registry: Registry) -> AsyncIterator[RegistryProxy]:
    async with RegistryProxy(registry.url) as started:
        yield started


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A repository of this test alone."""
    return f"transfer/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


def content_files(tmp_path: Path) -> list[Path]:
    """Everything in the cache but its lock."""
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.name != "lock"]


# --- Round trips


async def test_image_of_50_mb_is_bit_identical_and_sparse(
    tmp_path: Path, registry: Registry, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files", size_bytes=200 * MIB, data_bytes=50 * MIB)
    await push(files, f"{registry.host}/{path}:1")
    pulled = await library.pull(f"{registry.host}/{path}:1", [])
    assert files.same_as(pulled.disk, pulled.aux)
    assert pulled.disk.stat().st_size == 200 * MIB
    assert pulled.disk.stat().st_blocks * 512 <= 51 * MIB
    assert pulled.aux.stat().st_blocks * 512 <= 65536


async def test_manifest_is_what_other_tools_of_the_format_expect(
    tmp_path: Path, registry: Registry, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    mac = Machine("darwin", "arm64", hardware_model=b"model", machine_id=b"id")
    digest = await push(files, f"{registry.host}/{path}:1", machine=mac)
    manifest = RawRepository(registry.url, path).manifest("1")
    assert manifest["artifactType"] == "application/vnd.agoda.macosvz.artifact"
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
        "data": "e30=",
        "platform": {"architecture": "arm64", "os": "darwin"},
    }
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]]
    assert titles == ["disk.img", "aux.img", "config.json"]
    # Go's reader inflates the blob as it lies in the registry.
    blob = registry.blob_path(manifest["layers"][0]["digest"]).read_bytes()
    assert gzip.decompress(blob) == files.disk.read_bytes()
    pulled = await library.pull(f"{registry.host}/{path}:1", [])
    assert (pulled.hardware_model, pulled.machine_id, pulled.os) == (b"model", b"id", "darwin")
    assert pulled.image_id == f"{registry.host}/{path}@{digest}"


async def test_pushing_again_uploads_nothing_and_changes_no_digest(
    tmp_path: Path, registry_factory: StartRegistry
) -> None:
    registry = registry_factory()
    files = make_files(tmp_path / "files")
    first = await push(files, f"{registry.host}/vm:1", f"{registry.host}/vm:latest")
    uploads = registry.log.read_text().count('"PUT /v2/vm/blobs')
    assert await push(files, f"{registry.host}/vm:2") == first
    assert registry.log.read_text().count('"PUT /v2/vm/blobs') == uploads == 4
    repository = RawRepository(registry.url, "vm")
    assert repository.manifest("latest") == repository.manifest("2")


async def test_blobs_of_other_writers(tmp_path: Path, registry: Registry, library: Library, path: str) -> None:
    """The disk in several gzip members, the auxiliary storage not compressed at all, layers in another order."""
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1")
    repository = RawRepository(registry.url, path)
    disk, aux = files.disk.read_bytes(), files.aux.read_bytes()
    members = gzip.compress(disk[: 3 * MIB + 7], 1) + gzip.compress(disk[3 * MIB + 7 :], 9) + bytes(512)

    def change(manifest: dict[str, Any]) -> None:
        layers = manifest["layers"]
        layers[0].update(digest=repository.put_blob(members), size=len(members))
        layers[1].update(digest=repository.put_blob(aux), size=len(aux))
        layers[1]["annotations"] = {"org.opencontainers.image.title": "aux.img"}
        layers.reverse()

    republish(repository, change)
    pulled = await library.pull(f"{registry.host}/{path}:1", [])
    assert files.same_as(pulled.disk, pulled.aux)


def republish(repository: RawRepository, change: Callable[[dict[str, Any]], None]) -> str:
    manifest = repository.manifest("1")
    change(manifest)
    return repository.put_manifest("1", manifest)


# --- Images that lie


def title(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] = "../../x"


def artifact_type(manifest: dict[str, Any]) -> None:
    manifest["artifactType"] = "application/vnd.example.model"


def raw_size(size: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["layers"][0]["annotations"].update({agoda.UNCOMPRESSED_SIZE: size})


def raw_digest(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["annotations"][agoda.UNCOMPRESSED_DIGEST] = "sha256:" + "0" * 64


def blob_size(by: int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["size"] += by

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (title, InvalidInput, r'"\.\./\.\./x" is not a plain file name'),
        (artifact_type, InvalidInput, "artifact of type application/vnd.example.model; expected"),
        (raw_size(str(4 * MIB)), Integrity, "is longer than 4194304 bytes"),
        (raw_size(str(9 * MIB)), Integrity, "has 8388608 of 9437184 bytes"),
        (raw_digest, Integrity, "instead of sha256:0000"),
        (blob_size(-1), Integrity, "is longer than"),
        (blob_size(1), Integrity, "ends after"),
    ],
)
async def test_image_that_lies_is_refused_and_leaves_nothing(
    tmp_path: Path,
    registry: Registry,
    library: Library,
    path: str,
    change: Callable[[dict[str, Any]], None],
    error: type[Exception],
    words: str,
) -> None:
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    republish(RawRepository(registry.url, path), change)
    with pytest.raises(error, match=words) as caught:
        await library.pull(f"{registry.host}/{path}:1", [])
    assert f"{registry.host}/{path}:1" in str(caught.value)
    assert await library.find(f"{registry.host}/{path}:1") is None
    assert not list((tmp_path / "cache" / "staging").glob("*"))
    await library.recover()
    assert content_files(tmp_path) == []


@pytest.mark.parametrize(("how", "seed"), [("truncate", 9001), ("not gzip", 9002)])
async def test_blob_damaged_in_the_registry(
    tmp_path: Path, registry: Registry, library: Library, path: str, how: str, seed: int
) -> None:
    # A disk that no other test has: a registry keeps equal blobs once, and this one stays damaged.
    await push(make_files(tmp_path / "files", seed=seed), f"{registry.host}/{path}:1")
    digest = RawRepository(registry.url, path).layer_digest("1", "disk")
    if how == "truncate":
        registry.truncate_blob(digest, 1000)
    else:
        registry.corrupt_blob(digest, offset=0)
    with pytest.raises(Integrity, match="damaged in the registry or on the way"):
        await library.pull(f"{registry.host}/{path}:1", [])


async def test_bomb_fills_neither_memory_nor_disk(
    tmp_path: Path, registry: Registry, library: Library, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    repository = RawRepository(registry.url, path)
    bomb = gzip.compress(b"x" * (512 * MIB), 9)

    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][0].update(digest=repository.put_blob(bomb), size=len(bomb))

    republish(repository, change)
    written = 0
    pwrite = os.pwrite

    def count(*arguments: Any) -> int:
        nonlocal written
        written += len(arguments[1])
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", count)
    with pytest.raises(Integrity, match="is longer than 8388608 bytes"):
        await library.pull(f"{registry.host}/{path}:1", [])
    assert written <= 9 * MIB


# --- Indexes and platforms


async def test_index_of_a_container_and_two_machines(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, path: str
) -> None:
    linux, mac = make_files(tmp_path / "files", 1), make_files(tmp_path / "files", 2)
    repository = RawRepository(registry.url, path)
    entries = [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put_container(repository), "size": 1}
    ]
    for files, machine in ((mac, Machine("darwin", "arm64", b"m", b"i")), (linux, LINUX)):
        await push(files, f"{registry.host}/{path}:part", machine=machine)
        content = json.dumps(repository.manifest("part"))
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": agoda.ARTIFACT_TYPE,
                "digest": repository.put_manifest("part", content.encode()),
                "size": len(content),
                "platform": {"os": machine.os, "architecture": machine.architecture},
            }
        )
    index_type = "application/vnd.oci.image.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": index_type, "manifests": entries}
    index = repository.put_manifest("all", document, index_type)
    here = Library(tmp_path / "cache", [Platform(os="linux", architecture="amd64")])
    try:
        pulled = await here.pull(f"{proxy.host}/{path}:all", [])
        assert linux.same_as(pulled.disk, pulled.aux)
        assert pulled.manifest_digest == entries[2]["digest"]
        assert await here.find(f"{proxy.host}/{path}@{index}")
    finally:
        await here.close()


def put_container(repository: RawRepository) -> str:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": repository.put_blob(b"{}"), "size": 2}
    return repository.put_manifest("container", {"schemaVersion": 2, "config": config, "layers": []})


async def test_image_for_another_host_is_refused_before_its_disk_is_moved(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, path: str
) -> None:
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    mac = Library(tmp_path / "cache", [Platform(os="darwin", architecture="arm64")])
    try:
        with pytest.raises(InvalidInput, match="is an image for linux/amd64; this host runs darwin/arm64"):
            await mac.pull(f"{proxy.host}/{path}:1", [])
    finally:
        await mac.close()
    disk = RawRepository(registry.url, path).layer_digest("1", "disk")
    assert disk not in proxy.blob_downloads()


# --- Interruptions


async def test_connections_that_break_leave_what_the_next_pull_goes_on_with(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1")
    proxy.cut_after_bytes = MIB
    with pytest.raises(Unavailable, match=r"the connection to .* broke|broke off"):
        await library.pull(f"{proxy.host}/{path}:1", [])
    assert await library.find(f"{proxy.host}/{path}:1") is None
    proxy.cut_after_bytes = None
    pulled = await library.pull(f"{proxy.host}/{path}:1", [])
    assert files.same_as(pulled.disk, pulled.aux)
    assert not list((tmp_path / "cache" / "staging").glob("*"))


def threads_of_pulls() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pull")]


async def start_pull(tmp_path: Path, reference: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vzkubelet", "image", "pull", "--platform", "linux/amd64"),
        *("--cache-dir", str(tmp_path / "daemon"), reference),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path)},
    )


@pytest_asyncio.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Library]:
    """On the same store as the command line with ``--cache-dir daemon``."""
    opened = Library(tmp_path / "daemon" / "images")
    yield opened
    await opened.close()


@pytest.mark.parametrize("recovers", [True, False])
async def test_killed_in_the_middle_of_a_pull_then_pulled_again(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, shared: Library, path: str, recovers: bool
) -> None:
    # What is written is a MiB at least; what is held back must be far behind it.
    files = make_files(tmp_path / "files", size_bytes=24 * MIB, data_bytes=16 * MIB)
    await push(files, f"{registry.host}/{path}:1")
    proxy.hold_after_bytes = 6 * MIB
    process = await start_pull(tmp_path, f"{proxy.host}/{path}:1")
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    staging = tmp_path / "daemon" / "images" / "staging"
    async with asyncio.timeout(WAIT_S):
        while not any(data.stat().st_blocks for data in staging.glob("*/data")):
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    proxy.release.set()
    assert await shared.find(f"{proxy.host}/{path}:1") is None
    if recovers:
        await shared.recover()
        assert list(staging.glob("*")), "what the next pull may go on from was removed"
    pulled = await shared.pull(f"{proxy.host}/{path}:1", [])
    assert files.same_as(pulled.disk, pulled.aux)
    assert not list(staging.glob("*"))


async def test_two_processes_pull_once(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, shared: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1")
    proxy.hold_after_bytes = 1500_000
    process = await start_pull(tmp_path, f"{proxy.host}/{path}:1")
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    ours = spawn(shared.pull(f"{proxy.host}/{path}:1", []), name="pull")
    await shared.recover()  # of a daemon that starts now: what the other one is writing is not a leftover
    proxy.release.set()
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, output
    pulled = await asyncio.wait_for(ours, WAIT_S)
    assert files.same_as(pulled.disk, pulled.aux)
    disk = RawRepository(registry.url, path).layer_digest("1", "disk")
    assert proxy.blob_downloads().count(disk) == 1


async def test_content_of_another_tag_is_not_moved_again(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1")
    await push(files, f"{registry.host}/{path}:2", machine=replace(LINUX, cpu_min=4))
    first = await library.pull(f"{proxy.host}/{path}:1", [])
    second = await library.pull(f"{proxy.host}/{path}:2", [])
    assert first.manifest_digest != second.manifest_digest
    assert first.disk == second.disk
    disk = RawRepository(registry.url, path).layer_digest("1", "disk")
    assert proxy.blob_downloads().count(disk) == 1


async def test_closing_the_library_stops_its_pulls(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, path: str
) -> None:
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    proxy.hold_after_bytes = 1500_000
    opened = Library(tmp_path / "cache")
    pull = spawn(opened.pull(f"{proxy.host}/{path}:1", []), name="pull")
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    await cancel(pull)
    await opened.close()
    before = proxy.passed.total()
    await asyncio.sleep(0.05)
    assert proxy.passed.total() <= before + MIB, "what was on its way, and no more"
    assert not threads_of_pulls()


# --- Removal


async def test_removing_frees_what_nothing_else_uses(
    tmp_path: Path, registry: Registry, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1", f"{registry.host}/{path}:2")
    for tag in "12":
        await library.pull(f"{registry.host}/{path}:{tag}", [])
    assert await listed(tmp_path / "cache") == {f"{registry.host}/{path}:{tag}" for tag in "12"}
    assert await library.remove(f"{registry.host}/{path}:1") == 0
    pulled = await library.find(f"{registry.host}/{path}:2")
    assert pulled is not None
    with pulled.disk.open("rb") as clone:  # whoever has it open keeps it
        freed_bytes = await library.remove(f"{registry.host}/{path}:2")
        assert freed_bytes >= 2 * MIB
        assert clone.read(10) == files.disk.read_bytes()[:10]
    assert content_files(tmp_path) == []


async def test_removing_beside_a_running_pull_takes_nothing_from_it(
    tmp_path: Path, registry: Registry, proxy: RegistryProxy, library: Library, path: str
) -> None:
    old, new = make_files(tmp_path / "files", 1), make_files(tmp_path / "files", 2)
    await push(old, f"{registry.host}/{path}:old")
    await push(new, f"{registry.host}/{path}:new")
    await library.pull(f"{proxy.host}/{path}:old", [])
    proxy.hold_after_bytes = 1500_000
    pull = spawn(library.pull(f"{proxy.host}/{path}:new", []), name="pull")
    await asyncio.wait_for(proxy.held.wait(), WAIT_S)
    assert await library.remove(f"{proxy.host}/{path}:old") > MIB
    assert await library.find(f"{proxy.host}/{path}:old") is None
    proxy.release.set()
    pulled = await pull
    assert new.same_as(pulled.disk, pulled.aux)
    assert await library.remove(f"{proxy.host}/{path}:new")
    assert content_files(tmp_path) == []


# --- A full volume


async def test_volume_that_fills_up_on_the_way(
    tmp_path: Path, registry: Registry, library: Library, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path / "files")
    await push(files, f"{registry.host}/{path}:1")
    pwrite = os.pwrite

    def fill_up(descriptor: int, data: bytes, offset: int) -> int:
        if offset > 2 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fill_up)
        with pytest.raises(Exhausted, match="No space left on device; free space") as caught:
            await library.pull(f"{registry.host}/{path}:1", [])
    assert caught.value.reason == "ErrImagePull"
    assert f"{registry.host}/{path}:1" in str(caught.value)
    assert not list((tmp_path / "cache" / "staging").glob("*"))
    pulled = await library.pull(f"{registry.host}/{path}:1", [])
    assert files.same_as(pulled.disk, pulled.aux)


async def test_volume_that_is_too_small_from_the_start(
    tmp_path: Path,
    registry: Registry,
    proxy: RegistryProxy,
    library: Library,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await push(make_files(tmp_path / "files"), f"{registry.host}/{path}:1")
    status = os.statvfs(tmp_path)

    class Small:
        f_blocks, f_bavail, f_frsize = 1000, 1, status.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda _: Small)
    with pytest.raises(Exhausted, match=f"bytes wanted, {status.f_frsize} bytes free"):
        await library.pull(f"{proxy.host}/{path}:1", [])
    disk = RawRepository(registry.url, path).layer_digest("1", "disk")
    assert disk not in proxy.blob_downloads()
