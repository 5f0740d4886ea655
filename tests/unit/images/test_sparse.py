"""Zeros become holes, holes are zeros, nothing else changes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images.sparse import BLOCK_BYTES, data_runs, read_blocks

GRAIN = 64 * 1024


@pytest.mark.parametrize(
    ("block", "runs"),
    [
        (bytes(BLOCK_BYTES), []),
        (b"", []),
        (bytes(10), []),
        (b"x", [(0, 1)]),
        (bytes(GRAIN) + b"x", [(GRAIN, GRAIN + 1)]),
        (b"x" + bytes(2 * GRAIN), [(0, GRAIN)]),
        (b"x" * GRAIN + bytes(GRAIN) + b"y" * GRAIN, [(0, GRAIN), (2 * GRAIN, 3 * GRAIN)]),
        (bytes(GRAIN) + bytes(5), []),
        (bytes(BLOCK_BYTES - 1) + b"x", [(BLOCK_BYTES - GRAIN, BLOCK_BYTES)]),
    ],
)
def test_runs_of_data_on_the_grid(block: bytes, runs: list[tuple[int, int]]) -> None:
    assert list(data_runs(block)) == runs


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * GRAIN)), max_size=5))
def test_what_is_skipped_is_zero(parts: list[tuple[bool, int]]) -> None:
    block = b"".join((b"x" if is_data else b"\0") * size for is_data, size in parts)[:BLOCK_BYTES]
    rebuilt = bytearray(len(block))
    for start, end in data_runs(block):
        rebuilt[start:end] = block[start:end]
    assert bytes(rebuilt) == block


def test_file_with_holes_reads_back(tmp_path: Path) -> None:
    content = os.urandom(GRAIN) + bytes(6 * BLOCK_BYTES) + b"end"
    path = tmp_path / "disk"
    with path.open("w+b") as file:
        file.write(content[:GRAIN])
        file.seek(len(content) - 3)
        file.write(b"end")
        file.flush()
        assert b"".join(read_blocks(file.fileno(), len(content))) == content


def test_file_of_one_hole_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    with path.open("w+b") as file:
        file.truncate(5 * BLOCK_BYTES + 3)
        monkeypatch.setattr(os, "pread", None)
        assert [len(block) for block in read_blocks(file.fileno(), 5 * BLOCK_BYTES + 3)] == [BLOCK_BYTES] * 5 + [3]


def test_file_system_that_knows_no_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    path = tmp_path / "disk"
    path.write_bytes(b"abc" * 1000)
    monkeypatch.setattr(os, "lseek", refuse)
    with path.open("rb") as file:
        assert b"".join(read_blocks(file.fileno(), 3000)) == b"abc" * 1000


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"abc")
    with path.open("rb") as file, pytest.raises(EOFError):
        list(read_blocks(file.fileno(), 10))
