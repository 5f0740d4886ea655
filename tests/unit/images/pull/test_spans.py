"""Which ranges of packs are asked for."""

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.pull.spans import GAP_BYTES, SPAN_BYTES, spans, stored_bytes

CHUNK = 256 * 1024


def make_index(frames: list[int], lengths: list[int], packs: list[int]) -> ChunkIndex:
    """`frames` by chunk: the number of its frame plus 1, or 0."""
    digests = random.Random(1).randbytes(32 * len(lengths))
    return ChunkIndex(
        len(frames) * CHUNK, CHUNK, None, array("I", packs), array("I", lengths), digests, array("I", frames)
    )


@st.composite
def indexes(draw: st.DrawFn) -> ChunkIndex:
    packs = draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    count = sum(packs)
    lengths = draw(st.lists(st.integers(1, CHUNK), min_size=count, max_size=count))
    frames = draw(st.lists(st.integers(0, count), min_size=1, max_size=60))
    lengths[frames[-1] - 1] = min(lengths[frames[-1] - 1], CHUNK)
    return make_index(frames, lengths, packs)


@given(index=indexes(), data=st.data())
def test_every_wanted_chunk_is_in_one_span_that_is_not_too_long(index: ChunkIndex, data: st.DataObject) -> None:
    stored = [number for number in range(index.count) if index.frames[number]]
    wanted = data.draw(st.sets(st.sampled_from(stored))) if stored else set()
    found = list(spans(index, sorted(wanted)))
    assert sorted(piece.number for span in found for piece in span.pieces) == sorted(wanted)
    for span in found:
        assert span.end - span.start <= SPAN_BYTES
        assert span.end <= index.pack_bytes(span.pack)
        for piece in span.pieces:
            assert (span.pack, span.start + piece.offset, piece.length) == index.location(piece.number)
    asked = sum(span.end - span.start for span in found)
    assert stored_bytes(index, wanted) <= asked <= stored_bytes(index, wanted) + GAP_BYTES * len(wanted)


def test_neighbours_are_asked_for_together() -> None:
    index = make_index([1, 2, 3, 4], [1000] * 4, [4])
    (span,) = spans(index, range(4))
    assert (span.start, span.end) == (0, 4000)


@pytest.mark.parametrize(("hole", "requests"), [(GAP_BYTES, 1), (GAP_BYTES + 1, 2)])
def test_small_gaps_are_fetched_along(hole: int, requests: int) -> None:
    index = make_index([1, 4], [1000, hole // 2, hole - hole // 2, 1000], [4])
    assert len(list(spans(index, range(2)))) == requests


def test_no_span_goes_over_two_packs() -> None:
    index = make_index([1, 2], [1000, 1000], [1, 1])
    assert [span.pack for span in spans(index, range(2))] == [0, 1]


def test_chunks_of_one_frame_are_fetched_once() -> None:
    index = make_index([1, 2, 1, 1], [1000, 500], [2])
    (span,) = spans(index, range(4))
    assert [(piece.number, piece.offset) for piece in span.pieces] == [(0, 0), (2, 0), (3, 0), (1, 1000)]
    assert stored_bytes(index, range(4)) == 1500


def test_nothing_is_missing() -> None:
    index = make_index([1], [1000], [1])
    assert list(spans(index, [])) == []
    assert stored_bytes(index, []) == 0
