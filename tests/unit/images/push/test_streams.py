"""Compressed streams: whole and in runs, the same parts every time, and both sides' digests."""

import gzip
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from vzkubelet.images.push import streams
from vzkubelet.images.push.sources import PIECE_BYTES, FileSource
from vzkubelet.images.push.streams import AppleLz4, Compression, Gzip, Identity, Part, raw_digest
from vzkubelet.wire import apple_lz4

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PART_BYTES", 300_000)
    monkeypatch.setattr(streams, "PREFIX_BYTES", 2 * MIB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    noise = random.Random(1)
    path = tmp_path / "disk"
    path.write_bytes(noise.randbytes(2 * MIB) + bytes(3 * MIB) + b"text " * 300_000 + b"end")
    return path


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decoded(codec: Any, data: bytes) -> bytes:
    match codec:
        case Gzip():
            return gzip.decompress(data)
        case AppleLz4():
            decoder = apple_lz4.Decoder(PIECE_BYTES)
            raw = b"".join(decoder.feed(data))
            decoder.finish()
            return raw
        case _:
            return data


def run(path: Path, codec: Any, start: int, end: int | None, threads: int = 3) -> tuple[list[Part], Compression[Any]]:
    with FileSource(path) as source:
        compression = Compression(source, codec, lambda _: None, start=start, end=end, threads=threads)
        return list(compression.parts()), compression


@pytest.mark.parametrize("codec", [Gzip(), Gzip(6), AppleLz4(), Identity()])
@pytest.mark.parametrize(("start", "end"), [(0, None), (MIB, 3 * MIB), (4 * MIB, None), (2 * MIB, 5 * MIB)])
def test_run_is_the_stream(path: Path, codec: Any, start: int, end: int | None) -> None:
    raw = path.read_bytes()[start:end]
    parts, compression = run(path, codec, start, end)
    data = b"".join(part.data for part in parts)
    assert decoded(codec, data) == raw
    compressed = compression.compressed
    assert compressed is not None
    assert (compressed.digest, compressed.size_bytes) == (sha256(data), len(data))
    assert (compressed.raw_digest, compressed.raw_size_bytes) == (sha256(raw), len(raw))
    assert list(compressed.prefixes) == [sha256(raw[:size]) for size in range(2 * MIB, len(raw) + 1, 2 * MIB)]
    position = 0
    for part in parts:
        position += len(part.data)
        assert (part.end, part.digest.result()) == (position, sha256(data[:position]))


def test_parts_do_not_depend_on_threads(path: Path) -> None:
    expected = [part.data for part in run(path, Gzip(), 0, None, 1)[0]]
    assert len(expected) > 2
    for threads in (2, 5):
        assert [part.data for part in run(path, Gzip(), 0, None, threads)[0]] == expected


def test_iteration_that_is_given_up_leaves_no_thread(path: Path) -> None:
    with FileSource(path) as source:
        parts = Compression(source, Gzip(), lambda _: None).parts()
        next(parts)
        parts.close()  # type: ignore[attr-defined]  # a generator


def test_hashing_ends_where_it_is_told(path: Path) -> None:
    raw, heard = path.read_bytes(), list[tuple[int, str]]()

    def go_on(number: int, digest: str) -> bool:
        heard.append((number, digest))
        return len(heard) < 2

    with FileSource(path) as source:
        assert raw_digest(source, 0, len(raw), lambda *_: True) == sha256(raw)
        assert raw_digest(source, 0, len(raw), go_on) is None
    assert heard == [(0, sha256(raw[: 2 * MIB])), (1, sha256(raw[: 4 * MIB]))]
