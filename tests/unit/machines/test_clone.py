"""Copies keep the holes, and nothing is left of one that fails."""

import threading
from pathlib import Path

import pytest

from vzkubelet.machines.clone import CloneAborted, CloneMethod, clone_file, copy_sparse

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """64 MiB with data at the start, in the middle and, without a whole block, at the end."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.write(b"a" * MIB)
        file.seek(32 * MIB)
        file.write(b"b" * MIB)
        file.truncate(64 * MIB)
        file.seek(64 * MIB - 5)
        file.write(b"end")
    return path


def test_a_sparse_copy_is_equal_and_stays_sparse(tmp_path: Path, source: Path) -> None:
    copy_sparse(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize("size", [0, 1, 4096, MIB + 1])
def test_odd_sizes_are_kept(tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(b"")
    with (tmp_path / "source").open("r+b") as file:
        file.truncate(size)
    copy_sparse(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == size


def test_a_clone_is_written_without_touching_its_source(tmp_path: Path, source: Path) -> None:
    before = source.read_bytes()
    assert clone_file(source, tmp_path / "clone") in (CloneMethod.COPY, CloneMethod.REFLINK)
    with (tmp_path / "clone").open("r+b") as file:
        file.write(b"changed")
    assert source.read_bytes() == before


def test_an_existing_target_is_never_overwritten(tmp_path: Path, source: Path) -> None:
    (tmp_path / "clone").write_bytes(b"precious")
    for clone in (copy_sparse, clone_file):
        with pytest.raises(FileExistsError):
            clone(source, tmp_path / "clone")
    assert (tmp_path / "clone").read_bytes() == b"precious"


def test_an_aborted_copy_leaves_nothing(tmp_path: Path, source: Path) -> None:
    abort = threading.Event()
    abort.set()
    with pytest.raises(CloneAborted):
        copy_sparse(source, tmp_path / "copy", abort)
    assert not (tmp_path / "copy").exists()
