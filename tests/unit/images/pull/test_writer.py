"""Files written directly or not: bit for bit, with holes, on any grid, and where direct writes are refused."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vzkubelet.images.pull import writer as writers
from vzkubelet.images.pull.writer import BUFFER_BYTES, RawFile, Writer

GRAIN = 65536


@pytest.fixture(params=["direct", "plain"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawFile]:
    if request.param == "plain":
        monkeypatch.setattr(writers, "_open_direct", lambda *_: None)
    opened = RawFile(tmp_path / "data")
    yield opened
    opened.close()


def write(file: RawFile, position: int, *parts: bytes) -> None:
    writer = Writer(file, position)
    for part in parts:
        writer.write(part)
        assert writer.complete_to <= writer.position
    writer.flush()
    assert writer.complete_to == writer.position
    writer.close()


def content(file: RawFile) -> bytes:
    return file.path.read_bytes()


def test_zeros_become_holes(file: RawFile) -> None:
    noise = random.Random(1).randbytes(GRAIN)
    file.resize(16 * GRAIN)
    write(file, 0, noise + bytes(6 * GRAIN) + noise, bytes(7 * GRAIN) + noise)
    assert content(file) == noise + bytes(6 * GRAIN) + noise + bytes(7 * GRAIN) + noise
    assert file.path.stat().st_blocks * 512 <= 4 * GRAIN


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_parts_at_any_place(file: RawFile, data: st.DataObject) -> None:
    seed = random.Random(data.draw(st.integers(0, 99)))
    position = data.draw(st.sampled_from([0, 1, 511, 4096, 5000, GRAIN - 1, GRAIN]))
    sizes = data.draw(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * GRAIN)), min_size=1, max_size=6))
    parts = [seed.randbytes(size) if is_data else bytes(size) for is_data, size in sizes]
    whole = b"".join(parts)
    tail = data.draw(st.integers(0, 5000))
    file.resize(0)
    file.resize(position + len(whole) + tail)
    write(file, position, *parts)
    assert content(file) == bytes(position) + whole + bytes(tail)


def test_more_than_a_buffer_at_once(file: RawFile) -> None:
    noise = random.Random(2).randbytes(BUFFER_BYTES + 12345)
    file.resize(3 + 2 * len(noise))
    write(file, 3, noise, noise)
    assert content(file) == bytes(3) + noise * 2


def test_neighbours_on_one_block_keep_their_bytes(file: RawFile) -> None:
    """Two streams that meet inside a block of the disk."""
    file.resize(40_000)
    first, second = Writer(file, 0), Writer(file, 10_001)
    second.write(b"b" * 29_999)
    first.write(b"a" * 10_001)
    first.flush()
    second.flush()
    assert content(file) == b"a" * 10_001 + b"b" * 29_999
    first.close()
    second.close()


def test_seek_goes_to_another_place(file: RawFile) -> None:
    file.resize(10 * GRAIN)
    writer = Writer(file)
    writer.write(b"a" * GRAIN)
    writer.seek(5 * GRAIN)
    writer.write(b"b" * GRAIN)
    writer.flush()
    writer.close()
    assert content(file) == b"a" * GRAIN + bytes(4 * GRAIN) + b"b" * GRAIN + bytes(4 * GRAIN)


@pytest.mark.parametrize(("start", "end"), [(0, 10 * GRAIN), (GRAIN, 3 * GRAIN), (5, 4100), (4097, 4099), (7, 10**9)])
def test_cleared_range_is_zeros_and_nothing_else(file: RawFile, start: int, end: int) -> None:
    noise = random.Random(3).randbytes(10 * GRAIN)
    file.resize(len(noise))
    write(file, 0, noise)
    file.clear(start, end)
    end = min(end, len(noise))
    assert content(file) == noise[:start] + bytes(end - start) + noise[end:]


def test_cleared_range_is_a_hole(file: RawFile) -> None:
    file.resize(10 * GRAIN)
    write(file, 0, b"x" * (10 * GRAIN))
    file.clear(GRAIN, 9 * GRAIN)
    assert file.path.stat().st_blocks * 512 == 2 * GRAIN


def test_file_system_that_cannot_punch(file: RawFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(writers, "_punch", refuse)
    file.resize(10 * GRAIN)
    write(file, 0, b"x" * (10 * GRAIN))
    file.clear(5, 9 * GRAIN)
    assert content(file) == b"x" * 5 + bytes(9 * GRAIN - 5) + b"x" * GRAIN


def test_file_system_that_takes_the_flag_and_refuses_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RawFile(tmp_path / "data")
    assert file.is_direct
    direct, pwrite = file._direct, os.pwrite

    def refuse(descriptor: int, *rest: Any) -> int:
        if descriptor == direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(descriptor, *rest)

    monkeypatch.setattr(os, "pwrite", refuse)
    file.resize(3 * GRAIN)
    write(file, 0, b"x" * (3 * GRAIN))
    assert content(file) == b"x" * (3 * GRAIN)
    assert not file.is_direct
    file.close()


def test_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = RawFile(tmp_path / "data")
    file.resize(GRAIN)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, 0, b"x" * GRAIN)
    file.close()
