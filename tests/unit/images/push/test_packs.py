"""Packs: the same for the same file, nothing in them twice, old ones used as long as enough of them is."""

import hashlib
import random
from pathlib import Path

import pytest

from vzkubelet.errors import Conflict
from vzkubelet.images.formats.chunk_index import ChunkIndex, PackFrames, zero_digest
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.push import packs as module
from vzkubelet.images.push.packs import (
    Chunking,
    Frames,
    KnownPack,
    Pack,
    first_chunks,
    lost_frames,
    worth_reusing,
)
from vzkubelet.images.push.sources import FileSource

CHUNK = 4096


def digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def pack(name: str, *numbers: int, length: int = 100, own: bool = False) -> KnownPack:
    frames = PackFrames([length] * len(numbers), b"".join(map(digest, numbers)))
    return KnownPack(name, frames.size_bytes, frames, is_own=own)


def chunks(*numbers: int) -> ChunkList:
    return ChunkList(len(numbers) * CHUNK, CHUNK, b"".join(map(digest, numbers)))


def disk(path: Path, seed: int = 1) -> Path:
    noise = random.Random(seed)
    runs = [noise.randbytes(CHUNK) for _ in range(40)]
    # Chunks that come again, zeros, and a short last one.
    path.write_bytes(b"".join([*runs, bytes(5 * CHUNK), *runs[:10], b"text" * 3000, b"end"]))
    return path


def chunked(path: Path, *, threads: int = 3, known: Frames | None = None) -> tuple[list[Pack], ChunkList]:
    with FileSource(path) as source:
        chunking = Chunking(source, lambda _: None, threads=threads, chunk_bytes=CHUNK)
        made = list(chunking.packs((known or Frames([])).__contains__))
        assert chunking.chunks is not None
        return made, chunking.chunks


def test_packs_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK_BYTES", 10 * CHUNK)
    path = disk(tmp_path / "disk")
    first, listed = chunked(path, threads=1)
    for threads in (2, 8):
        assert chunked(path, threads=threads) == (first, listed)
    assert len(first) == 5
    index = ChunkIndex.build(listed, [made.frames for made in first])
    assert index.frames.count(0) == 5  # zeros are in no pack
    assert len(index.lengths) == len({index.digests[n : n + 32] for n in range(0, len(index.digests), 32)})


def test_hashing_first_makes_the_same_packs(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk")
    made, listed = chunked(path)
    with FileSource(path) as source:
        hashing = Chunking(source, lambda _: None, chunk_bytes=CHUNK)
        assert hashing.hash(lambda: True) == listed
        again = Chunking(source, lambda _: None, chunk_bytes=CHUNK)
        assert list(again.packs(lambda _: False, listed)) == made


def test_known_chunks_are_not_packed(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk")
    (made,), listed = chunked(path)
    known = Frames([KnownPack("sha256:a", len(made.data), made.frames)])
    assert chunked(path, known=known) == ([], listed)


def test_file_that_is_another_when_it_is_packed(tmp_path: Path) -> None:
    _, listed = chunked(disk(tmp_path / "disk"))
    disk(tmp_path / "disk", seed=2)
    with FileSource(tmp_path / "disk") as source:
        again = Chunking(source, lambda _: None, chunk_bytes=CHUNK)
        with pytest.raises(Conflict, match="was written to"):
            list(again.packs(lambda _: False, listed))


def test_chunks_larger_than_a_piece(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    data = random.Random(1).randbytes(5 << 20) + bytes(5 << 20) + b"end"
    path.write_bytes(data)
    with FileSource(path) as source:
        chunking = Chunking(source, lambda _: None, chunk_bytes=2 << 20)
        list(chunking.packs(lambda _: False))
        assert chunking.chunks is not None
        expected = [data[start : start + (2 << 20)] for start in range(0, len(data), 2 << 20)]
        assert chunking.chunks.digests == b"".join(hashlib.sha256(chunk).digest() for chunk in expected)


def test_pack_is_used_again_while_enough_of_it_is() -> None:
    full, half, none = pack("full", 1, 2, 3, 4, 5), pack("half", 6, 7, 8, 9), pack("none", 10, 11)
    assert worth_reusing([full, half, none], chunks(1, 2, 3, 20, 6, 7)) == [full]
    assert worth_reusing([full, half, none], chunks(1, 6, 7, 8)) == [half]
    # A chunk that the disk has often counts once.
    assert worth_reusing([full], chunks(*[1] * 50)) == []
    # What an interrupted push of the same file has made is all used, whatever else has the chunks as well.
    assert worth_reusing([pack("own", 1, 2, 3, own=True)], chunks(1)) == [pack("own", 1, 2, 3, own=True)]


def test_what_is_lost_with_packs_that_are_not_used() -> None:
    kept, lost = pack("kept", 1, 2), pack("lost", 2, 3, 4, 5)
    found = lost_frames([kept, lost], [kept], [pack("new", 5)], chunks(1, 2, 3, 5))
    assert found == [(lost, [(digest(3), 100, 200)])]


def test_packs_in_the_order_of_the_file() -> None:
    assert first_chunks(chunks(9, 1, 2, 3), [pack("b", 3), pack("a", 1, 2), pack("c", 7)]) == [3, 1, 4]


def test_zeros_need_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(10 * CHUNK + 1))
    made, listed = chunked(path)
    assert made == []
    assert listed.digests == zero_digest(CHUNK) * 10 + zero_digest(1)
