"""Images from one format to another, out of a registry or the store: bit for bit, and never from damaged ones."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.pushed_images import Pushed, make_vm
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, RawRepository, VmFiles
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Error, Integrity, NotFound
from vzkubelet.images import Library, Machine, Pusher, PushRequest, PushResult
from vzkubelet.images.formats.artifact import Display
from vzkubelet.model.reference import parse
from vzkubelet.ports import ImageDefaults, RegistryCredential

MAC = Machine(
    "darwin",
    "arm64",
    hardware_model=b"\x00model\xff",
    machine_id=b"\x00id\xff",
    defaults=ImageDefaults(entrypoint=("/bin/zsh", "-c"), cmd=("true",), env=(("A", "b"),), user="admin"),
    cpu_min=2,
    memory_min_bytes=4 << 30,
    cpu_count=4,
    memory_bytes=8 << 30,
    mac_address="02:00:00:12:34:56",
    display=Display(1920, 1200, "px"),
    labels=(("org.example", "kept"),),
)
Convert = Callable[..., Awaitable[PushResult]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"convert/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


@pytest_asyncio.fixture
async def pusher(tmp_path: Path) -> AsyncIterator[Pusher]:
    opened = Pusher(tmp_path / "cache", RegistryCredential(), progress=lambda _: None)
    yield opened
    await opened.close()


DISK_BYTES = 40 * MIB + 12345 * 512


async def push(pusher: Pusher, files: VmFiles, reference: str, **form: Any) -> PushResult:
    return await pusher.push(PushRequest(files.disk, files.aux, MAC, **form), [parse(reference)])


async def convert(pusher: Pusher, source: str, target: str, format_: str, **form: Any) -> PushResult:
    return await pusher.convert(parse(source), [parse(target)], format=format_, **form)


async def test_round_through_all_formats_is_bit_identical(
    tmp_path: Path, registry: Registry, pusher: Pusher, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=DISK_BYTES)
    first = await push(pusher, files, f"{registry.host}/{path}:agoda")
    await convert(pusher, f"{registry.host}/{path}:agoda", f"{registry.host}/{path}:chunked", "chunked")
    await convert(pusher, f"{registry.host}/{path}:chunked", f"{registry.host}/{path}:tart", "tart")
    again = await convert(pusher, f"{registry.host}/{path}:tart", f"{registry.host}/{path}-again:agoda", "agoda")
    disk, aux = files.disk.read_bytes(), files.aux.read_bytes()
    for tag, read_disk, read_aux in (
        ("chunked", lambda image: image.chunked("disk"), lambda image: image.chunked("aux")),
        ("tart", Pushed.tart_disk, Pushed.tart_nvram),
    ):
        image = Pushed(registry, path, tag)
        assert (read_disk(image), read_aux(image)) == (disk, aux)
    image = Pushed(registry, f"{path}-again", "agoda")
    assert (image.agoda("disk"), image.agoda("aux")) == (disk, aux)
    # Nothing that any of the formats can say was lost: the manifest, with all digests in it, is the first one.
    assert again.digest == first.digest


async def test_digest_of_the_whole_disk_is_handed_on(
    tmp_path: Path, registry: Registry, pusher: Pusher, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=8 * MIB)
    await push(pusher, files, f"{registry.host}/{path}:1")
    await convert(pusher, f"{registry.host}/{path}:1", f"{registry.host}/{path}:2", "chunked")
    (index,) = Pushed(registry, path, "2").layers("application/vnd.macos-vz-kubelet.disk.index.v1")
    raw_digest = f"sha256:{hashlib.sha256(files.disk.read_bytes()).hexdigest()}"
    assert index["annotations"]["macos-vz-kubelet.raw-digest"] == raw_digest


async def test_source_in_the_store_is_not_fetched(
    tmp_path: Path, registry_factory: StartRegistry, registry: Registry, pusher: Pusher, path: str
) -> None:
    source = registry_factory()
    files = make_vm(tmp_path / "files", size_bytes=8 * MIB)
    await push(pusher, files, f"{source.host}/vm:1")
    library = Library(tmp_path / "cache")
    await library.pull(f"{source.host}/vm:1", [])
    await library.close()
    source.stop()
    await convert(pusher, f"{source.host}/vm:1", f"{registry.host}/{path}:1", "chunked")
    image = Pushed(registry, path, "1")
    assert image.chunked("disk") == files.disk.read_bytes()
    assert image.chunked("aux") == files.aux.read_bytes()


async def test_conversion_of_a_new_version_sends_only_what_is_new(
    tmp_path: Path, registry: Registry, pusher: Pusher, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=DISK_BYTES)
    await push(pusher, files, f"{registry.host}/{path}-source:1")
    first = await convert(pusher, f"{registry.host}/{path}-source:1", f"{registry.host}/{path}:1", "chunked")
    with files.disk.open("r+b") as disk:
        disk.seek(20 * MIB)
        disk.write(b"changed")
    await push(pusher, files, f"{registry.host}/{path}-source:2")
    second = await convert(pusher, f"{registry.host}/{path}-source:2", f"{registry.host}/{path}:1", "chunked")
    assert second.uploaded_bytes < 400_000 < first.uploaded_bytes
    assert Pushed(registry, path, "1").chunked("disk") == files.disk.read_bytes()


@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_source_that_is_damaged(
    tmp_path: Path, registry_factory: StartRegistry, pusher: Pusher, format_: str
) -> None:
    registry = registry_factory()
    files = make_vm(tmp_path / "files", size_bytes=DISK_BYTES)
    await push(pusher, files, f"{registry.host}/vm:1", format=format_)
    layers = RawRepository(registry.url, "vm").manifest("1")["layers"]
    largest = max(layers, key=lambda layer: layer["size"])
    registry.corrupt_blob(largest["digest"], largest["size"] // 2)
    target = "agoda" if format_ != "agoda" else "chunked"
    with pytest.raises(Integrity, match=r"vm:1.*damaged"):
        await convert(pusher, f"{registry.host}/vm:1", f"{registry.host}/other:1", target)
    with pytest.raises(Exception, match="404"):
        RawRepository(registry.url, "other").manifest("1")


async def test_source_that_is_not_there(registry: Registry, pusher: Pusher, path: str) -> None:
    with pytest.raises(NotFound, match=f"{path}:none"):
        await convert(pusher, f"{registry.host}/{path}:none", f"{registry.host}/{path}:1", "tart")


@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_cancelling_ends_all_threads(
    tmp_path: Path, registry: Registry, pusher: Pusher, path: str, format_: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=DISK_BYTES)
    await push(pusher, files, f"{registry.host}/{path}:1")
    other = Pusher(tmp_path / "another-host", RegistryCredential(), progress=lambda _: None)
    threads = set(threading.enumerate())
    async with RegistryProxy(registry.url) as proxy:
        proxy.hold_after_bytes = 2 * MIB
        conversion = spawn(
            convert(other, f"{proxy.host}/{path}:1", f"{registry.host}/{path}-2:1", format_), name="convert"
        )
        await asyncio.wait_for(proxy.held.wait(), 30)
        await asyncio.wait_for(cancel(conversion), 10)
        proxy.release.set()
    with pytest.raises((asyncio.CancelledError, Error)):
        await conversion
    await other.close()
    working = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not [name for name in working if not name.startswith("asyncio")]
