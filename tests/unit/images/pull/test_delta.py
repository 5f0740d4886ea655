"""What two versions of a file have in common."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images.formats.chunk_index import zero_digest
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.pull.delta import data_bytes, gaps, joined, matching_runs

CHUNK = 4096
NOISE = random.Random(1)
DIGESTS = [NOISE.randbytes(32) for _ in range(4)]


def chunks(numbers: list[int], missing_bytes: int = 0) -> ChunkList:
    return ChunkList(len(numbers) * CHUNK - missing_bytes, CHUNK, b"".join(DIGESTS[number] for number in numbers))


@given(st.lists(st.integers(0, 3), max_size=3000), st.lists(st.integers(0, 3), max_size=3000))
def test_runs_are_the_chunks_that_are_equal(old: list[int], new: list[int]) -> None:
    runs = matching_runs(chunks(old), chunks(new))
    assert [number for first, count in runs for number in range(first, first + count)] == [
        number for number, (a, b) in enumerate(zip(old, new, strict=False)) if a == b
    ]
    assert joined(runs) == runs
    assert sum(count for _, count in gaps(runs, len(new))) == len(new) - sum(count for _, count in runs)


def test_last_chunk_of_another_length_is_another_one() -> None:
    assert matching_runs(chunks([0, 1], 5), chunks([0, 1])) == [(0, 1)]
    assert matching_runs(chunks([0, 1], 5), chunks([0, 1, 2])) == [(0, 1)]


def test_lists_of_another_size_of_chunks_say_nothing() -> None:
    other = ChunkList(2 * 8192, 8192, DIGESTS[0] + DIGESTS[1])
    assert matching_runs(other, chunks([0, 1])) == []


def test_zeros_count_for_nothing() -> None:
    target = ChunkList(3 * CHUNK, CHUNK, DIGESTS[0] + zero_digest(CHUNK) + DIGESTS[1])
    assert data_bytes([(0, 3)], target) == 2 * CHUNK


@pytest.mark.parametrize(
    ("runs", "expected"), [([], [(0, 5)]), ([(0, 5)], []), ([(1, 2)], [(0, 1), (3, 2)]), ([(0, 1), (4, 1)], [(1, 3)])]
)
def test_gaps(runs: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert list(gaps(runs, 5)) == expected
