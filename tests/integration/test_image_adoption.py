"""The Go project's cache taken over: proven by hashing, moved and not copied, recognised by the next pull."""

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.go_cache import HARDWARE_MODEL, MACHINE_ID, go_directory, write_go_file, write_go_image
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, RawRepository, VmFiles, push
from vzkubelet.aio import cancel, spawn
from vzkubelet.images import Library, Machine, Upkeep
from vzkubelet.images.store import Store

DISK, AUX = random.Random(1).randbytes(2 * MIB) + bytes(6 * MIB), random.Random(2).randbytes(20_000)
MACOS = Machine("darwin", "arm64", hardware_model=HARDWARE_MODEL, machine_id=MACHINE_ID)


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "images")
    yield opened
    await opened.close()


@pytest.fixture
def upkeep(tmp_path: Path) -> Upkeep:
    return Upkeep(tmp_path / "images")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"gocache/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    """What is below a directory, with sizes and times."""
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


async def test_an_adopted_image_starts_offline_and_was_moved(tmp_path: Path, library: Library, upkeep: Upkeep) -> None:
    directory = write_go_image(tmp_path, "registry.test:5000/team/macos:26", DISK, AUX)
    inode = (directory / "disk.img").stat().st_ino
    adoption = await upkeep.adopt(tmp_path)
    assert adoption.left == ()
    (adopted,) = adoption.adopted
    assert (adopted.reference, adopted.size_bytes) == ("registry.test:5000/team/macos:26", len(DISK) + len(AUX))
    image = await library.find("registry.test:5000/team/macos:26")
    assert image is not None
    assert image.disk.read_bytes() == DISK
    assert image.aux.read_bytes() == AUX
    assert image.disk.stat().st_ino == inode, "it was copied"
    assert image.disk.stat().st_mode & 0o777 == 0o444
    assert (image.os, image.architecture) == ("darwin", "arm64")
    assert (image.hardware_model, image.machine_id) == (HARDWARE_MODEL, MACHINE_ID)
    assert not (tmp_path / "blobs").exists() or tree(tmp_path / "blobs") == {}
    assert (await upkeep.verify()).findings == ()
    assert (await upkeep.adopt(tmp_path)).adopted == ()


async def test_nothing_pretends_to_know_the_manifest(tmp_path: Path, library: Library, upkeep: Upkeep) -> None:
    write_go_image(tmp_path, "registry.test/macos:26", DISK, AUX)
    await upkeep.adopt(tmp_path)
    image = await library.find("registry.test/macos:26")
    assert image is not None
    assert image.manifest_digest == ""
    assert "@" not in image.image_id, "an image ID with a repository is a promise that it can be pulled by it"
    (pointer,) = Store(tmp_path / "images").references()
    assert pointer.resolved_digest == ""
    assert await library.find(f"registry.test/macos@{image.image_id}") is not None


async def test_the_next_pull_moves_nothing_and_puts_the_true_digest_in_place(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    files = VmFiles(tmp_path / "disk", tmp_path / "aux")
    files.disk.write_bytes(DISK)
    files.aux.write_bytes(AUX)
    manifest_digest = await push(files, f"{registry.host}/{path}:26", machine=MACOS)
    async with RegistryProxy(registry.url) as proxy:
        reference = f"{proxy.host}/{path}:26"
        write_go_image(tmp_path, reference, DISK, AUX)
        await upkeep.adopt(tmp_path)
        assert await library.find(reference)
        image = await library.pull(reference, [])
        blobs = {RawRepository(registry.url, path).layer_digest("26", kind) for kind in ("disk", "aux")}
        assert proxy.seen
        assert not blobs & proxy.passed.keys()
    assert image.manifest_digest == manifest_digest
    assert image.image_id == f"{proxy.host}/{path}@{manifest_digest}"
    assert image.disk.read_bytes() == DISK
    await upkeep.prune()
    assert await library.find(reference)
    assert [record.adopted for record in Store(tmp_path / "images").images()] == [False]


async def test_two_tags_of_one_content_become_one(tmp_path: Path, library: Library, upkeep: Upkeep) -> None:
    for tag in ("26", "latest"):
        write_go_image(tmp_path, f"registry.test/macos:{tag}", DISK, AUX)
    assert len((await upkeep.adopt(tmp_path)).adopted) == 2
    images = [await library.find(f"registry.test/macos:{tag}") for tag in ("26", "latest")]
    assert len({image.disk for image in images if image}) == 1
    assert len(Store(tmp_path / "images").contents.digests()) == 2
    assert tree(tmp_path / "blobs") == {} if (tmp_path / "blobs").exists() else True


async def test_what_is_damaged_incomplete_or_strange_is_left_alone_and_told(
    tmp_path: Path, library: Library, upkeep: Upkeep
) -> None:
    def made(name: str) -> Path:
        return write_go_image(tmp_path, f"registry.test/{name}:1", name.encode() + DISK, AUX)

    flipped = made("flipped") / "disk.img"
    with flipped.open("r+b") as file:
        file.write(b"!")
    os.utime(flipped, (time.time() - 3600, time.time() - 3600))  # older than its digest: the Go project trusts it
    (made("no-digest") / "aux.img.digest").unlink()
    (made("no-disk") / "disk.img").unlink()
    (made("no-config") / "config.json").unlink()
    (made("odd-digest") / "disk.img.digest").write_text("md5:abc")
    (made("other-config") / "config.json").write_text("{}")
    link = made("link") / "disk.img"
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    shrunk = made("shrunk") / "disk.img"
    os.truncate(shrunk, MIB)
    no_boot_data = write_go_image(tmp_path, "registry.test/no-boot-data:1", DISK, AUX, hardwareModelData="")
    good = write_go_image(tmp_path, "registry.test/good:1", DISK, AUX)
    before = tree(tmp_path / "blobs")
    adoption = await upkeep.adopt(tmp_path)
    assert [adopted.directory for adopted in adoption.adopted] == [good]
    reasons = {left.directory.parent.name: left.reason for left in adoption.left}
    assert reasons.keys() == {
        "flipped", "no-digest", "no-disk", "no-config", "odd-digest", "other-config", "link", "shrunk", "no-boot-data"
    }  # fmt: skip
    assert "is damaged: its digest is sha256:" in reasons["flipped"]
    assert reasons["no-digest"] == "aux.img.digest is missing"
    assert reasons["no-disk"] == "disk.img is missing"
    assert reasons["no-config"] == "config.json is missing"
    assert reasons["odd-digest"] == "disk.img.digest holds no digest"
    assert reasons["other-config"] == "config.json is not what its digest says"
    assert reasons["link"] == "disk.img is no regular file"
    assert "damaged" in reasons["shrunk"]
    assert "hardwareModelData" in reasons["no-boot-data"]
    assert no_boot_data.exists()
    for name, state in before.items():
        if not name.startswith("registry.test/good"):
            assert tree(tmp_path / "blobs")[name] == state
    assert await library.find("registry.test/flipped:1") is None
    assert await library.find("registry.test/good:1")


async def test_a_reference_that_was_pulled_since_is_not_put_back(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    files = VmFiles(tmp_path / "disk", tmp_path / "aux")
    files.disk.write_bytes(DISK)
    files.aux.write_bytes(AUX)
    reference = f"{registry.host}/{path}:26"
    await push(files, reference, machine=MACOS)
    pulled = await library.pull(reference, [])
    directory = write_go_image(tmp_path, reference, b"older" + DISK, AUX)
    (left,) = (await upkeep.adopt(tmp_path)).left
    assert (left.directory, "was pulled since" in left.reason) == (directory, True)
    image = await library.find(reference)
    assert image is not None
    assert image.image_id == pulled.image_id


async def test_a_cache_on_another_volume_is_copied_with_its_holes(
    tmp_path: Path, library: Library, upkeep: Upkeep
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", other], check=True)
    try:
        directory = write_go_image(other, "registry.test/macos:26", b"", AUX)
        with (directory / "disk.img").open("wb") as disk:
            disk.write(DISK[: 2 * MIB])
            disk.truncate(len(DISK))
        (directory / "disk.img.digest").write_text(f"sha256:{hashlib.sha256(DISK).hexdigest()}")
        assert len((await upkeep.adopt(other)).adopted) == 1
        image = await library.find("registry.test/macos:26")
        assert image is not None
        assert image.disk.read_bytes() == DISK
        assert image.disk.stat().st_blocks * 512 < 3 * MIB
        assert not directory.exists()
    finally:
        subprocess.run(["umount", other], check=True)


async def test_an_adoption_that_is_cancelled_stops_and_goes_on_later(tmp_path: Path, upkeep: Upkeep) -> None:
    for number in range(4):
        content = random.Random(number).randbytes(16 * MIB)
        write_go_image(tmp_path, f"registry.test/macos:{number}", content, AUX)
    adoption = spawn(upkeep.adopt(tmp_path), name="adopt")
    await asyncio.sleep(0.03)
    started = time.monotonic()
    await cancel(adoption)
    assert time.monotonic() - started < 1
    await upkeep.adopt(tmp_path)
    assert len(list(Store(tmp_path / "images").references())) == 4


async def test_a_file_that_is_still_being_written_is_left(tmp_path: Path, upkeep: Upkeep) -> None:
    directory = write_go_image(tmp_path, "registry.test/macos:26", DISK, AUX)
    shutil.copy2(directory / "disk.img", tmp_path / "partial")
    os.truncate(directory / "disk.img", MIB)  # as the Go project does when it pulls a tag again
    assert len((await upkeep.adopt(tmp_path)).left) == 1
    write_go_file(directory, "disk.img", DISK)
    assert len((await upkeep.adopt(tmp_path)).adopted) == 1
    assert not go_directory(tmp_path, "registry.test/macos:26").exists()
