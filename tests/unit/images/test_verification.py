"""Reading files and comparing them with their digests: holes, ends, damage, and where it is."""

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.verification import Damage, examine, extents, list_chunks

MIB = 1024 * 1024
PAGE = 4096


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def naive_list(data: bytes, chunk_bytes: int) -> ChunkList:
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    return ChunkList(len(data), chunk_bytes, b"".join(hashlib.sha256(chunk).digest() for chunk in chunks))


def sparse(path: Path, size_bytes: int, *runs: tuple[int, int]) -> bytes:
    """A file with these runs (start, length) of data; returns its content."""
    path.unlink(missing_ok=True)
    content = bytearray(size_bytes)
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for number, (start, length) in enumerate(runs):
            data = bytes([number % 255 + 1]) * min(length, size_bytes - start)
            file.seek(start)
            file.write(data)
            content[start : start + len(data)] = data
    return bytes(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    size=st.integers(0, 3 * MIB),
    runs=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300_000)), max_size=4),
    chunk_bytes=st.sampled_from([512, PAGE, 3 * PAGE, 100_000, MIB, 16 * MIB]),
)
def test_any_file_reads_as_it_is(tmp_path: Path, size: int, runs: list[tuple[float, int]], chunk_bytes: int) -> None:
    path = tmp_path / "file"
    content = sparse(path, size, *((int(part * size), length) for part, length in runs if size))
    joined = b"".join(
        bytes(extent.length) if extent.data is None else bytes(extent.data) for extent in extents(path, size)
    )
    assert joined == content
    assert list_chunks(path, size, chunk_bytes) == naive_list(content, chunk_bytes)
    assert examine(path, digest_of(content), size).damage is None
    assert examine(path, digest_of(content), size, list_bytes=chunk_bytes).chunks == naive_list(content, chunk_bytes)


def test_reading_may_begin_in_the_middle(tmp_path: Path) -> None:
    content = sparse(tmp_path / "file", 3 * MIB + 5, (MIB - 10, 20), (2 * MIB, MIB + 5))
    for start in (0, PAGE, MIB, 2 * MIB + PAGE, 3 * MIB):
        read = list(extents(tmp_path / "file", len(content), start=start))
        assert read[0].offset == start
        assert sum(e.length for e in read) == len(content) - start


def test_holes_are_told_and_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)  # a TiB: reading it would take an hour
        file.seek(1 << 39)
        file.write(b"data")
    told: list[tuple[int, int]] = []
    data = [e for e in extents(tmp_path / "file", 1 << 40, pace=lambda *done: told.append(done)) if e.data is not None]
    assert sum(e.length for e in data) < MIB
    assert sum(done for done, _ in told) == 1 << 40
    assert sum(read for _, read in told) < MIB


@pytest.mark.parametrize("kind", ["raw", "tree"])
def test_one_flipped_bit_is_found_and_its_chunk_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    content = sparse(path, 3 * MIB + 100, (0, 3 * MIB + 100))
    told = naive_list(content, MIB)
    digest = told.digest() if kind == "tree" else digest_of(content)
    assert examine(path, digest, len(content), told).damage is None
    with path.open("r+b") as file:
        file.seek(2 * MIB + 7)
        file.write(b"\0")
    damage = examine(path, digest, len(content), told).damage
    assert damage is not None
    assert damage.ranges == ((2 * MIB, 3 * MIB),)
    found = digest_of(path.read_bytes())
    assert damage.reason == (
        f"{MIB} bytes of it are in chunks that are not as they were written"
        if kind == "tree"
        else f"its digest is {found} instead of {digest}"
    )


def test_damaged_neighbours_are_one_range(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = sparse(path, 5 * MIB, (0, 5 * MIB))
    told = naive_list(content, MIB)
    with path.open("r+b") as file:
        for offset in (0, MIB, 4 * MIB):
            file.seek(offset)
            file.write(b"\0")
    damage = examine(path, told.digest(), len(content), told).damage
    assert damage is not None
    assert damage.ranges == ((0, 2 * MIB), (4 * MIB, 5 * MIB))


def test_a_hole_where_data_was_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    digest = digest_of(sparse(path, 2 * MIB, (0, 2 * MIB)))
    sparse(path, 2 * MIB, (0, MIB))
    assert examine(path, digest, 2 * MIB).damage is not None


@pytest.mark.parametrize("actual", [0, MIB - 1, MIB + 1])
def test_another_size_is_damage_without_reading(tmp_path: Path, actual: int) -> None:
    sparse(tmp_path / "file", actual)
    reading: list[int] = []
    damage = examine(tmp_path / "file", digest_of(bytes(MIB)), MIB, pace=lambda done, _: reading.append(done)).damage
    assert damage == Damage(f"it has {actual} instead of {MIB} bytes")
    assert reading == []


def test_a_file_that_shrinks_while_it_is_read_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = sparse(path, 20 * MIB, (0, 20 * MIB))

    def shrink(_: int, __: int) -> None:
        os.truncate(path, MIB)

    damage = examine(path, digest_of(content), len(content), pace=shrink).damage
    assert damage == Damage(f"it is shorter than {len(content)} bytes")


def test_what_the_disk_cannot_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sparse(tmp_path / "file", MIB, (0, MIB))

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    damage = examine(tmp_path / "file", digest_of(content), MIB).damage
    assert damage == Damage("it cannot be read: Input/output error")


def test_a_file_system_that_refuses_direct_reads_is_read_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = sparse(tmp_path / "file", MIB + 1, (0, MIB + 1))
    preadv, refused = os.preadv, []

    def picky(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", picky)
    assert examine(tmp_path / "file", digest_of(content), MIB + 1).damage is None
    assert refused == [0]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    content = sparse(tmp_path / "file", MIB, (0, MIB))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        list(extents(tmp_path / "link", len(content)))
