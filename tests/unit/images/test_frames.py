"""Frames of chunks, and documents that only claim to be."""

import tracemalloc

import pytest
import zstandard

from vzkubelet.images import frames

RAW = bytes(range(256)) * 64


def test_a_frame_is_its_chunk() -> None:
    codec = frames.decompressor()
    assert frames.expanded(RAW, len(RAW), codec) == RAW
    assert frames.expanded(zstandard.ZstdCompressor().compress(RAW), len(RAW), codec) == RAW
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(RAW)
    assert frames.expanded(memoryview(unsized), len(RAW), codec) == RAW


@pytest.mark.parametrize("says_its_size", [True, False])
def test_a_bomb_is_not_expanded(says_its_size: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=says_its_size).compress(bytes(256 << 20))
    codec = frames.decompressor()
    tracemalloc.start()
    try:
        with pytest.raises(frames.DamagedFrame):
            frames.expanded(bomb, 256 << 10, codec)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "frame",
    [b"", b"no frame", zstandard.ZstdCompressor().compress(RAW)[:-3], zstandard.ZstdCompressor().compress(b"x")],
)
def test_what_is_no_frame_of_that_chunk_is_damaged(frame: bytes) -> None:
    with pytest.raises(frames.DamagedFrame):
        frames.expanded(frame, len(RAW), frames.decompressor())
