"""Every format through a real registry, read back bit for bit; what is there is neither compressed nor sent again."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.registry import Registry
from tests.support.pushed_images import Pushed, make_vm
from tests.support.vm_images import LINUX, MIB, RawRepository, VmFiles
from vzkubelet.errors import Conflict, InvalidInput, NotFound
from vzkubelet.images import Library, Machine, Pusher, PushProgress, PushRequest, PushResult
from vzkubelet.images.push import packs
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

MAC = Machine("darwin", "arm64", hardware_model=b"model", machine_id=b"id", cpu_count=4, memory_bytes=8 << 30)
FORMATS = ("agoda", "tart", "chunked")
Push = Callable[..., Awaitable[PushResult]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A repository of this test alone."""
    return f"push/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


@pytest.fixture
def heard() -> list[PushProgress]:
    return []


@pytest.fixture
def push(tmp_path: Path, registry: Registry, heard: list[PushProgress]) -> Push:
    """Pushes to ``path:tag`` of the session's registry, with one cache per test."""

    async def run(
        files: VmFiles, image: str, *, root: str = "cache", machine: Machine = MAC, **form: Any
    ) -> PushResult:
        pusher = Pusher(tmp_path / root, RegistryCredential(), progress=heard.append)
        try:
            request = PushRequest(files.disk, files.aux, machine, **form)
            return await pusher.push(request, [parse(f"{registry.host}/{image}")])
        finally:
            await pusher.close()

    return run


def raw(pushed: Pushed, format_: str) -> tuple[bytes, bytes]:
    match format_:
        case "agoda":
            return pushed.agoda("disk"), pushed.agoda("aux")
        case "tart":
            return pushed.tart_disk(), pushed.tart_nvram()
        case _:
            return pushed.chunked("disk"), pushed.chunked("aux")


def compare(files: VmFiles, pushed: Pushed, format_: str) -> None:
    disk, aux = raw(pushed, format_)
    assert hashlib.sha256(disk).digest() == hashlib.sha256(files.disk.read_bytes()).digest()
    assert aux == files.aux.read_bytes()


def change(files: VmFiles, directory: Path, *places: int) -> VmFiles:
    """Another version: some 64 KiB differ at each of `places`."""
    changed = VmFiles(directory / "disk-changed", directory / "aux-changed")
    changed.aux.write_bytes(files.aux.read_bytes())
    disk = bytearray(files.disk.read_bytes())
    for place in places:
        disk[place : place + 65536] = hashlib.shake_128(place.to_bytes(8, "big")).digest(65536)
    changed.disk.write_bytes(disk)
    return changed


@pytest.mark.parametrize("format_", FORMATS)
async def test_image_is_bit_identical(
    tmp_path: Path, registry: Registry, push: Push, path: str, format_: str, heard: list[PushProgress]
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=48 * MIB + 12345 * 512)
    result = await push(files, f"{path}:1", format=format_)
    pushed = Pushed(registry, path, "1")
    compare(files, pushed, format_)
    assert result.uploaded_bytes >= sum(layer["size"] for layer in pushed.manifest["layers"])
    stage = [told for told in heard if told.stage == "push disk.img"]
    assert stage[0].done_bytes == 0
    assert stage[-1].done_bytes == stage[-1].total_bytes == files.disk.stat().st_size


@pytest.mark.parametrize("format_", FORMATS)
async def test_equal_files_give_equal_digests(tmp_path: Path, push: Push, path: str, format_: str) -> None:
    files = make_vm(tmp_path / "files")
    first = await push(files, f"{path}:1", format=format_, machine=LINUX)
    other = await push(files, f"{path}-other:1", root="another-host", format=format_, machine=LINUX)
    assert other.digest == first.digest


@pytest.mark.parametrize("format_", FORMATS)
async def test_unchanged_image_is_neither_compressed_nor_sent(
    tmp_path: Path, push: Push, path: str, format_: str, heard: list[PushProgress]
) -> None:
    files = make_vm(tmp_path / "files")
    first = await push(files, f"{path}:1", format=format_)
    heard.clear()
    again = await push(files, f"{path}:2", format=format_)
    assert again.digest == first.digest
    assert again.uploaded_bytes == 0
    assert again.reused_bytes == first.uploaded_bytes + first.reused_bytes
    if format_ == "agoda":
        assert {told.stage for told in heard} == {"compare disk.img", "compare aux.img"}


@pytest.mark.parametrize("format_", FORMATS)
async def test_unchanged_image_is_recognised_by_a_host_that_never_pushed_it(
    tmp_path: Path, push: Push, path: str, format_: str
) -> None:
    files = make_vm(tmp_path / "files")
    first = await push(files, f"{path}:1", format=format_)
    again = await push(files, f"{path}:1", root="another-host", format=format_)
    assert (again.digest, again.uploaded_bytes) == (first.digest, 0)


@pytest.mark.parametrize("format_", FORMATS)
async def test_blobs_are_taken_over_from_another_repository(
    tmp_path: Path, registry: Registry, push: Push, path: str, format_: str
) -> None:
    files = make_vm(tmp_path / "files")
    first = await push(files, f"{path}-a:1", format=format_)
    base = parse(f"{registry.host}/{path}-a:1")
    again = await push(files, f"{path}-b:1", root="another-host", format=format_, base=base)
    assert again.digest == first.digest
    # Small documents are not worth a request to find out where they are.
    assert again.uploaded_bytes < 10_000
    compare(files, Pushed(registry, f"{path}-b", "1"), format_)


async def test_changed_disk_is_hashed_no_further_than_it_is_alike(
    tmp_path: Path, push: Push, path: str, heard: list[PushProgress]
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=400 * MIB)
    await push(files, f"{path}:1")
    heard.clear()
    await push(change(files, tmp_path, 70 * MIB), f"{path}:2")
    compared = [told.done_bytes for told in heard if told.stage.startswith("compare") and told.total_bytes > MIB]
    assert max(compared) <= 128 * MIB


async def test_new_version_in_chunks_sends_only_what_is_new(
    tmp_path: Path, registry: Registry, push: Push, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=160 * MIB)
    first = await push(files, f"{path}:1", format="chunked")
    changed = change(files, tmp_path, 3 * MIB, 90 * MIB)
    second = await push(changed, f"{path}:1", format="chunked")
    # Two chunks, the index and what documents there are.
    assert second.uploaded_bytes < 2 * 256 * 1024 + 100_000
    assert second.uploaded_bytes < first.uploaded_bytes / 20
    compare(changed, Pushed(registry, path, "1"), "chunked")


async def test_version_that_was_pulled_is_the_base_of_the_next(
    tmp_path: Path, registry: Registry, push: Push, path: str
) -> None:
    files = make_vm(tmp_path / "files")
    await push(files, f"{path}:1", format="chunked")
    library = Library(tmp_path / "another-host")
    await library.pull(f"{registry.host}/{path}:1", [])
    await library.close()
    second = await push(change(files, tmp_path, 3 * MIB), f"{path}:2", root="another-host", format="chunked")
    assert second.uploaded_bytes < MIB


async def test_cache_that_cannot_be_written_is_no_reason_to_fail(
    tmp_path: Path, registry: Registry, push: Push, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=30 * MIB)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/uploads").write_bytes(b"in the way")
    for format_ in FORMATS:
        await push(files, f"{path}:{format_}", format=format_)
        compare(files, Pushed(registry, path, format_), format_)


async def test_space_of_old_versions_is_bounded(tmp_path: Path, registry: Registry, push: Push, path: str) -> None:
    """Packs that lose more and more of their chunks are packed again at last."""
    files = make_vm(tmp_path / "files", size_bytes=64 * MIB)
    for version in range(6):
        files = change(files, tmp_path, *range(version * MIB // 4, 64 * MIB, 3 * MIB // 2))
        await push(files, f"{path}:1", format="chunked")
        pushed = Pushed(registry, path, "1")
        compare(files, pushed, "chunked")
    stored = sum(layer["size"] for layer in pushed.layers("application/vnd.macos-vz-kubelet.disk.pack.v1"))
    await push(files, f"{path}-fresh:1", root="another-host", format="chunked")
    fresh = Pushed(registry, f"{path}-fresh", "1").layers("application/vnd.macos-vz-kubelet.disk.pack.v1")
    assert stored * (1 - packs.UNUSED_LIMIT) <= sum(layer["size"] for layer in fresh) * 1.01


async def test_new_version_for_tart_sends_only_pieces_that_changed(
    tmp_path: Path, registry: Registry, push: Push, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=40 * MIB)
    with files.disk.open("r+b") as disk:  # three pieces: data, a hole, data
        disk.truncate(1030 * MIB)
        disk.seek(1025 * MIB)
        disk.write(b"the end")
    await push(files, f"{path}:1", format="tart")
    with files.disk.open("r+b") as disk:
        disk.seek(1029 * MIB)
        disk.write(b"changed")
    second = await push(files, f"{path}:1", root="another-host", format="tart")
    pushed = Pushed(registry, path, "1")
    assert [layer["annotations"]["org.cirruslabs.tart.uncompressed-size"] for layer in pushed.layers(TART_DISK)] == [
        str(512 * MIB),
        str(512 * MIB),
        str(6 * MIB),
    ]
    assert second.uploaded_bytes < MIB


TART_DISK = "application/vnd.cirruslabs.tart.disk.v2"


@pytest.mark.parametrize("format_", FORMATS)
async def test_file_that_changes_while_it_is_read(
    tmp_path: Path, registry: Registry, push: Push, path: str, format_: str
) -> None:
    files = make_vm(tmp_path / "files")

    def touch() -> None:
        with files.disk.open("r+b") as disk:
            disk.write(b"other")

    class Touching(list[PushProgress]):
        def append(self, told: PushProgress) -> None:
            if told.stage == "push disk.img":
                touch()

    pusher = Pusher(tmp_path / "cache", RegistryCredential(), progress=Touching().append)
    try:
        with pytest.raises(Conflict, match="was written to while it was read"):
            await pusher.push(
                PushRequest(files.disk, files.aux, MAC, format=format_), [parse(f"{registry.host}/{path}:1")]
            )
    finally:
        await pusher.close()
    with pytest.raises(Exception, match="404"):
        RawRepository(registry.url, path).manifest("1")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"format": "ova"}, "ova is not a format that is written: agoda, tart, chunked are"),
        ({"level": 10}, "level 10 is not between 1 and 9"),
        ({"format": "chunked", "level": 20}, "level 20 is not between 1 and 19"),
        ({"machine": Machine("darwin", "arm64")}, "needs hardware model and machine identifier"),
        ({"image_config": {"config": 5}}, "is not a JSON object"),
    ],
)
async def test_wrong_request_is_found_before_anything_is_sent(
    tmp_path: Path, push: Push, path: str, heard: list[PushProgress], form: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        await push(make_vm(tmp_path / "files", size_bytes=MIB), f"{path}:1", **form)
    assert heard == []


async def test_base_that_does_not_exist(tmp_path: Path, registry: Registry, push: Push, path: str) -> None:
    files = make_vm(tmp_path / "files", size_bytes=MIB)
    with pytest.raises(NotFound, match=f"{path}:none"):
        await push(files, f"{path}:1", format="chunked", base=parse(f"{registry.host}/{path}:none"))


async def test_base_of_another_format_is_not_passed_over_in_silence(
    tmp_path: Path, registry: Registry, push: Push, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=MIB)
    await push(files, f"{path}:1", format="agoda")
    with pytest.raises(InvalidInput, match=f"{path}:1 is not in the chunked format"):
        await push(files, f"{path}:2", format="chunked", base=parse(f"{registry.host}/{path}:1"))


async def test_empty_and_missing_files(tmp_path: Path, push: Push, path: str) -> None:
    files = make_vm(tmp_path / "files", size_bytes=MIB)
    files.aux.write_bytes(b"")
    with pytest.raises(InvalidInput, match="is empty"):
        await push(files, f"{path}:1")
    files.aux.unlink()
    with pytest.raises(NotFound, match="does not exist"):
        await push(files, f"{path}:1")


@pytest.mark.parametrize("level", [2, 6])
async def test_level_of_gzip(tmp_path: Path, registry: Registry, push: Push, path: str, level: int) -> None:
    files = make_vm(tmp_path / "files", size_bytes=8 * MIB)
    await push(files, f"{path}:1")
    other = await push(files, f"{path}:2", level=level)
    assert other.uploaded_bytes
    compare(files, Pushed(registry, path, "2"), "agoda")
