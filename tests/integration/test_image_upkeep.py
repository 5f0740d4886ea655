"""The store kept sound and within bounds, on real file systems and with a real registry."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.registry import Registry
from tests.support.vm_images import MIB, VmFiles, listed, make_files, push
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Exhausted, NotFound, Unavailable
from vzkubelet.images import Finding, Library, Rules, Upkeep, contents, scrubbing, verification
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.images.store import Store
from vzkubelet.machines.clone import CloneMethod, clone_disk_for_qemu
from vzkubelet.machines.directory import MachineRoot
from vzkubelet.model.reference import parse
from vzkubelet.ports import MachineImage

NOW_RULES = Rules(high_percent=0, low_percent=0, min_age_s=0)
"""Everything that may go goes."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A repository of this test alone."""
    return f"upkeep/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


@pytest_asyncio.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = Library(tmp_path / "cache")
    yield opened
    await opened.close()


@pytest.fixture
def upkeep(tmp_path: Path) -> Upkeep:
    return Upkeep(tmp_path / "cache")


async def pulled(library: Library, registry: Registry, path: str, files: VmFiles, tag: str = "1") -> MachineImage:
    await push(files, f"{registry.host}/{path}:{tag}")
    return await library.pull(f"{registry.host}/{path}:{tag}", [])


def flip(path: Path, offset: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)


def flip_unseen(store: Store, image: MachineImage, offset: int) -> None:
    """As a disk loses a bit: the file system knows nothing of it, so inode, ctime and size are as recorded."""
    flip(image.disk, offset)
    digest = f"sha256:{image.disk.name}"
    record_file = store.contents.record_path(digest)
    record = json.loads(record_file.read_bytes())
    record["ctimeNs"] = image.disk.stat().st_ctime_ns
    record_file.write_text(json.dumps(record))


def overlay(root: Path, image: MachineImage, uid: str = "uid") -> Path:
    """A machine of the image as the driver of QEMU makes it; returns its base."""
    machines = MachineRoot(root / "machines")
    with machines.staged(uid) as machine:
        place = machines.machine(uid).path
        method = clone_disk_for_qemu(image.disk, machine, users=image.users, place=place)
        machine.record_file.write_text("{}")
    if method is not CloneMethod.OVERLAY:
        pytest.skip("this file system shares blocks, so no overlay is made on it")
    return machines.machine(uid).base


# --- Damage


@pytest.mark.parametrize("look", ["verify", "scrub"])
@pytest.mark.parametrize("seen", [True, False], ids=["written to", "lost by the disk"])
async def test_one_flipped_bit_is_found_quarantined_and_pulled_again(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str, look: str, seen: bool
) -> None:
    files = make_files(tmp_path / "files")
    image = await pulled(library, registry, path, files)
    assert (await upkeep.verify()).findings == ()
    if seen:
        flip(image.disk, 300_000)
    else:
        flip_unseen(Store(tmp_path / "cache"), image, 300_000)
        assert await library.find(image.reference), "the cheap check cannot see it; this is what a scrub is for"
    findings = await upkeep.scrub() if look == "scrub" else (await upkeep.verify([image.reference])).findings
    assert findings is not None
    (finding,) = findings
    assert finding.references == (image.reference,)
    assert finding.ranges == ((256 * 1024, 512 * 1024),)
    assert finding.moved_to is not None
    assert finding.moved_to.stat().st_size == image.disk_size_bytes
    assert await library.find(image.reference) is None
    again = await library.pull(image.reference, [])
    assert files.same_as(again.disk, again.aux)
    assert (await upkeep.verify()).findings == ()
    assert await upkeep.scrub() == ()


async def test_a_start_notices_a_write_whatever_the_mtime_says(
    tmp_path: Path, registry: Registry, library: Library, path: str
) -> None:
    files = make_files(tmp_path / "files")
    image = await pulled(library, registry, path, files)
    before = image.disk.stat()
    flip(image.disk, 5000)
    os.utime(image.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await library.find(image.reference) is None
    assert len(list((tmp_path / "cache" / "quarantine").glob("*.json"))) == 1
    again = await library.pull(image.reference, [])
    assert files.same_as(again.disk, again.aux)


async def test_mtime_games_alone_change_nothing(
    tmp_path: Path, registry: Registry, library: Library, path: str
) -> None:
    image = await pulled(library, registry, path, make_files(tmp_path / "files"))
    for seconds in (0, 1e9, time.time() + 1e6):
        os.utime(image.disk, (seconds, seconds))
        os.utime(image.disk.with_name(image.disk.name + ".json"), (seconds, seconds))
        assert await library.find(image.reference)
    assert not (tmp_path / "cache" / "quarantine").exists()


async def test_a_start_of_a_cached_image_hashes_nothing_and_is_fast(
    tmp_path: Path, registry: Registry, library: Library, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await pulled(library, registry, path, make_files(tmp_path / "files"))
    monkeypatch.setattr(contents, "examine", None)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert await library.find(image.reference)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02


async def test_a_running_machine_keeps_its_damaged_base_and_the_next_one_gets_the_right_one(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    files = make_files(tmp_path / "files")
    image = await pulled(library, registry, path, files)
    base = overlay(tmp_path, image)
    flip(image.disk, 300_000)
    damaged = base.read_bytes()
    with base.open("rb") as running:
        assert len((await upkeep.verify()).findings) == 1
        assert base.read_bytes() == damaged
        check_overlay(base)
        again = await library.pull(image.reference, [])
        assert running.read() == damaged
    assert files.same_as(again.disk, again.aux)
    assert files.same_as(base, again.aux)
    check_overlay(base)


def check_overlay(base: Path) -> None:
    """QEMU opens it, with its base."""
    command = ["qemu-io", "-r", "-c", "read 0 64k", str(base.with_name("disk.qcow2"))]
    subprocess.run(command, check=True, capture_output=True)


async def test_verifying_tells_what_is_missing_and_what_was_never_here(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    image = await pulled(library, registry, path, make_files(tmp_path / "files"))
    progress: list[tuple[int, int]] = []
    found = await upkeep.verify([image.reference], lambda *done: progress.append(done))
    assert (found.contents, found.size_bytes, found.findings) == (2, image.size_bytes, ())
    assert progress[-1] == (image.size_bytes, image.size_bytes)
    image.disk.unlink()
    (finding,) = (await upkeep.verify()).findings
    assert "not here" in finding.reason
    with pytest.raises(NotFound, match="image ls"):
        await upkeep.verify([f"{registry.host}/{path}:other"])


# --- Stores of before, without records


def forget_records(cache: Path) -> None:
    """As stores were laid out once: contents and nothing beside them."""
    for path in (cache / "content" / "sha256").iterdir():
        if "." in path.name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


async def test_a_store_of_before_is_verified_once_however_many_pods_ask_and_a_machine_of_it_lives_on(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path / "files")
    image = await pulled(library, registry, path, files)
    forget_records(tmp_path / "cache")
    base = tmp_path / "base.img"
    base.hardlink_to(image.disk)
    examined: list[str] = []

    def examine(path: Path, *rest: Any, **named: Any) -> verification.Verdict:
        examined.append(path.name)
        return verification.examine(path, *rest, **named)

    monkeypatch.setattr(contents, "examine", examine)
    found = await asyncio.gather(*(library.find(image.reference) for _ in range(5)))
    assert all(found)
    assert sorted(examined) == sorted([image.disk.name, image.aux.name])
    assert await library.remove(image.reference) < MIB, "the blocks are the machine's as well"
    assert files.same_as(base, files.aux)


async def test_closing_ends_a_long_verification_soon(tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    target, digest = parse("registry.test/guest:1"), "sha256:" + "1" * 64
    disk = ContentRecord("sha256:" + "2" * 64, 1 << 42)  # 4 TiB of zeros: an hour of hashing
    store.contents.directory.mkdir(parents=True)
    with store.content_path(disk.digest).open("wb") as file:
        file.truncate(disk.size_bytes)
    store.commit_image(
        ImageRecord(manifest_digest=digest, os="linux", architecture="amd64", disk=disk, aux=disk), b"{}"
    )
    store.commit_reference(
        target,
        ReferenceRecord(
            reference=str(target),
            repository=target.repository,
            resolved_digest=digest,
            manifest_digest=digest,
            pulled_at="2026-01-01T00:00:00Z",
        ),
    )
    library = Library(tmp_path / "images")
    finding = spawn(library.find(str(target)), name="find", on_crash=lambda _: None)
    await asyncio.sleep(0.1)
    assert not finding.done()
    started = time.monotonic()
    await library.close()
    assert time.monotonic() - started < 5
    with pytest.raises(Unavailable):
        await finding


# --- Scrubs


def big_content(store: Store, seed: int, size_bytes: int) -> str:
    """A content that was verified long ago; returns its digest."""
    data = store.root.parent / "raw"
    data.write_bytes(random.Random(seed).randbytes(size_bytes))
    chunks = verification.list_chunks(data, size_bytes, MIB)
    store.root.mkdir(parents=True, exist_ok=True)
    staging = store.stage(chunks.digest())
    assert staging is not None
    data.replace(staging.data)
    store.commit_content(staging, ContentRecord(chunks.digest(), size_bytes), chunks.to_bytes())
    record_file = store.contents.record_path(chunks.digest())
    record = json.loads(record_file.read_bytes())
    record["verifiedAt"] = f"20{seed:02d}-01-01T00:00:00Z"
    record_file.write_text(json.dumps(record))
    return chunks.digest()


async def test_a_scrub_goes_on_after_a_restart_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "_SAVE_EVERY_BYTES", MIB)
    store = Store(tmp_path / "images")
    digest = big_content(store, 1, 64 * MIB)
    scrub = spawn(Upkeep(store).scrub(3600, bytes_per_s=40 * MIB), name="scrub")
    position = store.root / "scrub.json"
    async with asyncio.timeout(20):
        while not position.exists() or json.loads(position.read_bytes())["offset"] < 16 * MIB:
            await asyncio.sleep(0.05)
    started = time.monotonic()
    await cancel(scrub)
    assert time.monotonic() - started < 1, "a scrub does not end when it is to"
    offset = json.loads(position.read_bytes())["offset"]
    read: list[int] = []
    extents = verification.extents

    def noted(path: Path, size_bytes: int, *, start: int, pace: object) -> object:
        read.append(start)
        return extents(path, size_bytes, start=start, pace=pace)  # type: ignore[arg-type]

    monkeypatch.setattr(scrubbing, "extents", noted)
    assert await Upkeep(Store(tmp_path / "images")).scrub(3600, bytes_per_s=0) == ()
    assert read == [offset]
    record = store.contents.record(digest)
    assert record is not None
    assert record.verified_at > "2026"
    assert not position.exists()
    assert await Upkeep(store).scrub(3600) == (), "it was verified just now"
    assert read == [offset]


async def test_a_scrub_that_goes_on_still_finds_what_is_damaged_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "images")
    digest = big_content(store, 1, 8 * MIB)
    path, record = store.content_path(digest), store.contents.record_path(digest)
    before = json.loads(record.read_bytes())
    flip(path, 7 * MIB + 5)
    before["ctimeNs"] = path.stat().st_ctime_ns
    record.write_text(json.dumps(before))
    position = {"digest": digest, "inode": before["inode"], "ctimeNs": before["ctimeNs"]}
    (store.root / "scrub.json").write_text(
        json.dumps({**position, "startedAt": before["verifiedAt"], "offset": 4 * MIB})
    )
    findings = await Upkeep(store).scrub()
    assert findings is not None
    assert [finding.ranges for finding in findings] == [((7 * MIB, 8 * MIB),)]


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_one_process_scrubs_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    big_content(store, 1, 16 * MIB)
    script = (
        "import asyncio, sys; from pathlib import Path; from vzkubelet.images import Upkeep; "
        "print('begun', flush=True); asyncio.run(Upkeep(Path(sys.argv[1])).scrub(bytes_per_s=1024 * 1024))"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path / "images"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        await other.stdout.readline()
        async with asyncio.timeout(20):
            while not _is_locked(store.root / "scrub.lock"):
                await asyncio.sleep(0.05)
        assert await Upkeep(store).scrub(3600) is None
    finally:
        other.kill()
        await other.wait()
    assert await Upkeep(store).scrub(3600, bytes_per_s=0) is not None, "the dead process is still waited for"


async def test_a_scrub_keeps_to_its_rate_and_takes_the_oldest_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    new, old = big_content(store, 9, 12 * MIB), big_content(store, 3, 12 * MIB)
    started = time.monotonic()
    assert await Upkeep(store).scrub(3600, bytes_per_s=8 * MIB, limit=1) == ()
    assert time.monotonic() - started > 1.0
    records = {digest: store.contents.record(digest) for digest in (new, old)}
    assert [digest for digest, record in records.items() if record and record.verified_at > "2026"] == [old]


def test_a_scrub_has_idle_priority() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("asked of the kernel with ionice")
    script = (
        "import threading, subprocess\nfrom vzkubelet.images.idle_priority import take_idle_priority\n"
        "def tell():\n    print(subprocess.check_output(['ionice', '-p', str(threading.get_native_id())], text=True))\n"
        "def work():\n    assert take_idle_priority()\n    tell()\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join(); tell()\n"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert told[0] == "idle"
    assert told[1] != "idle", "the whole process was slowed down"


# --- Collection


async def test_what_pods_use_or_people_pinned_stays_and_the_rest_goes_oldest_first(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    images = [await pulled(library, registry, path, make_files(tmp_path / "f", n), f"v{n}") for n in range(4)]
    store = Store(tmp_path / "cache")
    store.pin(images[0].reference)
    order = (3, 2, 1, 0)
    for age, number in enumerate(order):
        mark = store.root / "manifests" / "sha256" / images[number].manifest_digest[7:] / "used"
        mark.touch()
        os.utime(mark, (time.time() - 1000 + age, time.time() - 1000 + age))
    collected = await upkeep.collect(NOW_RULES, in_use=[images[1].image_id])
    assert [one.references for one in collected.removed] == [(images[3].reference,), (images[2].reference,)]
    assert collected.freed_bytes >= 4 * MIB
    assert collected.event_reason == "FreeDiskSpaceFailed", "a volume cannot be emptied"
    assert await listed(tmp_path / "cache") == {images[0].reference, images[1].reference}


async def test_young_images_and_little_use_are_left_alone(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    image = await pulled(library, registry, path, make_files(tmp_path / "files"))
    assert (await upkeep.collect(Rules(0, 0, min_age_s=60))).removed == ()
    assert (await upkeep.collect(Rules(101, 80, min_age_s=0))).removed == ()
    assert await library.find(image.reference)


async def test_collecting_removes_what_machines_refer_to_from_the_list_and_not_from_the_disk(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    files = make_files(tmp_path / "files")
    image = await pulled(library, registry, path, files)
    base = overlay(tmp_path, image)
    await upkeep.prune(everything=True)
    assert await listed(tmp_path / "cache") == set()
    assert files.same_as(base, files.aux)
    check_overlay(base)
    again = await library.pull(image.reference, [])
    assert files.same_as(again.disk, again.aux)
    await upkeep.prune(everything=True)
    MachineRoot(tmp_path / "machines").remove("uid")
    assert (await upkeep.prune()).leftover_bytes >= 2 * MIB
    assert Store(tmp_path / "cache").contents.digests() == []


async def test_pruning_takes_old_versions_and_leaves_what_has_a_name(
    tmp_path: Path, registry: Registry, library: Library, upkeep: Upkeep, path: str
) -> None:
    old = await pulled(library, registry, path, make_files(tmp_path / "files", 1))
    new = await pulled(library, registry, path, make_files(tmp_path / "files", 2))
    (row,) = [row for row in (await upkeep.usage()).images if row.references]
    assert row.record.manifest_digest == new.manifest_digest
    assert 2 * MIB <= row.unique_bytes <= row.allocated_bytes < row.size_bytes
    pruned = await upkeep.prune()
    assert [one.manifest_digest for one in pruned.removed] == [old.manifest_digest]
    assert await library.find(new.reference)


# --- A full volume


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of about 48 MiB, in memory or on a loop device."""
    mounted, backing = tmp_path / "small", tmp_path / "small.img"
    mounted.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", mounted], check=True)
    else:
        with backing.open("wb") as file:
            file.truncate(52 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", backing], check=True)
        subprocess.run(["mount", "-o", "loop", backing, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def noise(directory: Path, seed: int, data_bytes: int) -> VmFiles:
    return make_files(directory, seed, size_bytes=64 * MIB, data_bytes=data_bytes)


def half_noise(directory: Path, seed: int, data_bytes: int) -> VmFiles:
    """A disk that takes twice as much as its blob: sixteen different bytes, in no order."""
    files = noise(directory, seed, MIB)
    letters = bytes(range(65, 81)) * 16
    with files.disk.open("r+b") as disk:
        disk.write(random.Random(seed).randbytes(data_bytes).translate(letters))
    return files


async def small_library(small: Path, in_use: set[str]) -> tuple[Library, Upkeep]:
    upkeep = Upkeep(small / "images", in_use=lambda: in_use, evicts=True, rules=Rules(min_age_s=0))
    return Library(small / "images", make_room=upkeep.make_room), upkeep


@pytest.mark.parametrize("make", [noise, half_noise], ids=["seen before", "in the middle"])
async def test_a_pull_into_a_full_volume_removes_what_nobody_uses_and_succeeds(
    tmp_path: Path, registry: Registry, path: str, small: Path, make: object
) -> None:
    old, new = noise(tmp_path / "files", 1, 20 * MIB), make(tmp_path / "files", 2, 32 * MIB)  # type: ignore[operator]
    library, _ = await small_library(small, set())
    try:
        first = await pulled(library, registry, path, old, "old")
        second = await pulled(library, registry, path, new, "new")
        assert new.same_as(second.disk, second.aux)
        assert await library.find(first.reference) is None
    finally:
        await library.close()


@pytest.mark.parametrize("make", [noise, half_noise], ids=["seen before", "in the middle"])
async def test_a_pull_that_no_removal_helps_fails_with_figures_and_later_succeeds(
    tmp_path: Path, registry: Registry, path: str, small: Path, make: object
) -> None:
    old, new = noise(tmp_path / "files", 1, 20 * MIB), make(tmp_path / "files", 2, 32 * MIB)  # type: ignore[operator]
    in_use: set[str] = set()
    library, upkeep = await small_library(small, in_use)
    try:
        first = await pulled(library, registry, path, old, "old")
        in_use.add(first.image_id)
        base = overlay(small, first)
        with pytest.raises(Exhausted) as caught:
            await pulled(library, registry, path, new, "new")
        assert caught.value.reason == "ErrImagePull"
        text = str(caught.value)
        assert f"{registry.host}/{path}" in text
        assert "bytes free" in text
        assert await library.find(first.reference), "an image in use was removed"
        assert old.same_as(base, first.aux)
        check_overlay(base)
        in_use.clear()
        MachineRoot(small / "machines").remove("uid")
        second = await library.pull(f"{registry.host}/{path}:new", [])
        assert new.same_as(second.disk, second.aux)
        collected = await upkeep.collect()
        assert collected.shortage == "" or collected.volume.used_percent >= 85
    finally:
        await library.close()


async def test_a_pull_onto_the_last_byte_makes_room_first(
    tmp_path: Path, registry: Registry, path: str, small: Path
) -> None:
    library, _ = await small_library(small, set())
    try:
        old = await pulled(library, registry, path, noise(tmp_path / "files", 1, 20 * MIB), "old")
        with contextlib.suppress(OSError), (small / "log of somebody else").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        assert os.statvfs(small).f_bavail < 4
        new = noise(tmp_path / "files", 2, 12 * MIB)
        image = await pulled(library, registry, path, new, "new")
        assert new.same_as(image.disk, image.aux)
        assert await library.find(old.reference) is None
    finally:
        await library.close()


async def test_making_room_takes_leftovers_before_images(
    tmp_path: Path, registry: Registry, path: str, small: Path
) -> None:
    library, upkeep = await small_library(small, set())
    try:
        image = await pulled(library, registry, path, noise(tmp_path / "files", 1, 16 * MIB))
        leftover = small / "images" / "staging" / ("f" * 64)
        leftover.mkdir(parents=True)
        (leftover / "data").write_bytes(bytes(16 * MIB))
        status = os.statvfs(small)
        free_bytes = status.f_bavail * status.f_frsize
        assert await upkeep.make_room(free_bytes - MIB) == 0
        assert leftover.exists()
        assert await upkeep.make_room(free_bytes + MIB) >= 16 * MIB
        assert not leftover.exists()
        assert await library.find(image.reference)
        assert await upkeep.make_room(free_bytes + 20 * MIB) >= 16 * MIB
        assert await library.find(image.reference) is None
        with pytest.raises(Exhausted, match=r"wanted, .* bytes free .*no image is left to remove"):
            await upkeep.make_room(100 * MIB)
    finally:
        await library.close()


async def test_peoples_tools_remove_no_image_that_has_a_name(
    tmp_path: Path, registry: Registry, path: str, small: Path
) -> None:
    upkeep = Upkeep(small / "images")
    library = Library(small / "images", make_room=upkeep.make_room)
    try:
        image = await pulled(library, registry, path, noise(tmp_path / "files", 1, 20 * MIB))
        with pytest.raises(Exhausted, match=r"2\d\.\d MiB could be freed .*image prune --all"):
            await pulled(library, registry, path, noise(tmp_path / "files", 2, 40 * MIB), "2")
        assert await library.find(image.reference)
    finally:
        await library.close()


def test_findings_are_told_in_one_line() -> None:
    ranges = tuple((start, start + 10) for start in range(0, 2000, 100))
    text = str(Finding("sha256:abc", "it is bad", ranges, None, ("r.io/a:1", "r.io/a:2")))
    assert text.startswith("content sha256:abc of r.io/a:1, r.io/a:2: it is bad; bytes 0-9, 100-109")
    assert text.endswith("and 12 more")
    assert shutil.which("qemu-io"), "QEMU's tools are part of these tests"
