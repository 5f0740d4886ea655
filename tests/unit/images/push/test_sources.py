"""Files in pieces: the same bytes, holes not read, changes noticed."""

import os
from pathlib import Path

import pytest

from vzkubelet.errors import Conflict, InvalidInput, NotFound
from vzkubelet.images.push.sources import PIECE_BYTES, FileSource, check_file, is_zero


def write(path: Path, *runs: tuple[int, bytes], size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset, data in runs:
            file.seek(offset)
            file.write(data)
    return path


@pytest.mark.parametrize("size_bytes", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 100])
def test_pieces_are_the_file(tmp_path: Path, size_bytes: int) -> None:
    path = write(tmp_path / "disk", (size_bytes // 2, b"data"[: size_bytes - size_bytes // 2]), size_bytes=size_bytes)
    with FileSource(path) as source:
        pieces = list(source.pieces())
    assert b"".join(piece.content for piece in pieces) == path.read_bytes()
    assert [piece.offset for piece in pieces] == list(range(0, size_bytes, PIECE_BYTES))
    assert all(piece.size_bytes == len(piece.content) for piece in pieces)


def test_holes_are_not_read_and_zeros_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "disk", (0, b"a"), (6 * PIECE_BYTES, bytes(PIECE_BYTES)), size_bytes=8 * PIECE_BYTES)
    read, pread = list[int](), os.pread

    def reading(descriptor: int, size_bytes: int, offset: int) -> bytes:
        read.append(offset)
        return pread(descriptor, size_bytes, offset)

    monkeypatch.setattr(os, "pread", reading)
    with FileSource(path) as source:
        pieces = list(source.pieces())
    assert [piece.data is None for piece in pieces] == [False] + 7 * [True]
    assert set(read) <= {0, 6 * PIECE_BYTES}


def test_run_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", (PIECE_BYTES, b"b" * PIECE_BYTES), size_bytes=3 * PIECE_BYTES)
    with FileSource(path) as source:
        (piece,) = source.pieces(PIECE_BYTES, 2 * PIECE_BYTES)
    assert piece.content == b"b" * PIECE_BYTES


@pytest.mark.parametrize("how", ["written", "shortened", "touched"])
def test_change_while_it_is_read(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "disk", (0, b"a" * 3 * PIECE_BYTES), size_bytes=3 * PIECE_BYTES)
    with FileSource(path) as source:
        pieces = source.pieces()
        next(pieces)
        if how == "shortened":
            os.truncate(path, 3 * PIECE_BYTES - 1)
        elif how == "written":
            with path.open("r+b") as file:
                file.write(b"b")
        os.utime(path, ns=(0, 12345))
        with pytest.raises(Exception, match=r"was written to|become shorter") as caught:
            list(pieces)
    assert isinstance(caught.value, Conflict) or how == "shortened"


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", (0, b"a"), size_bytes=10)
    with FileSource(path) as source:
        before = source.identity()
    with FileSource(path) as source:
        assert source.identity() == before
    path.write_bytes(b"b" * 10)
    with FileSource(path) as source:
        assert source.identity() != before


def test_what_cannot_be_pushed(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInput, match="is empty"):
        check_file(tmp_path / "empty")
    with pytest.raises(InvalidInput, match="no regular file"):
        check_file(tmp_path)
    with pytest.raises(NotFound, match="does not exist"):
        check_file(tmp_path / "none")


def test_zeros() -> None:
    assert is_zero(bytes(PIECE_BYTES))
    assert is_zero(bytes(10))
    assert not is_zero(bytes(PIECE_BYTES - 1) + b"x")
    assert not is_zero(b"\0x")
