"""The index of a chunked file and the list of a file's chunks: what is said about each chunk, and what is refused."""

import hashlib
import struct
from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images.formats import chunk_index
from vzkubelet.images.formats.chunk_index import ChunkIndex, Location, PackFrames, chunk_bytes_for, zero_digest
from vzkubelet.images.formats.tree import ChunkList

KIB = 1024
CHUNK = 4 * KIB
HEADER = struct.Struct("<8sIIQII32s")


def digest(chunk: bytes) -> bytes:
    return hashlib.sha256(chunk).digest()


def small_index() -> ChunkIndex:
    """Five chunks: A, zeros, B, A again, and a shorter C; A and B in the first pack, C and an unused frame after it."""
    size_bytes = 4 * CHUNK + 100
    a, b, c, unused = (digest(bytes([number]) * 5) for number in range(4))
    chunks = ChunkList(size_bytes, CHUNK, a + zero_digest(CHUNK) + b + a + c)
    return ChunkIndex.build(chunks, [PackFrames([300, CHUNK], a + b), PackFrames([7, 100], unused + c)])


def test_where_each_chunk_lies() -> None:
    index = small_index()
    assert (index.count, index.pack_count) == (5, 2)
    assert [index.is_zero(number) for number in range(5)] == [False, True, False, False, False]
    assert [index.location(number) for number in (0, 2, 3, 4)] == [
        Location(0, 0, 300),
        Location(0, 300, CHUNK),
        Location(0, 0, 300),
        Location(1, 7, 100),
    ]
    with pytest.raises(KeyError):
        index.location(1)
    assert [index.pack_bytes(pack) for pack in range(2)] == [300 + CHUNK, 107]
    assert [index.length(number) for number in range(5)] == [CHUNK] * 4 + [100]
    assert index.data_bytes == 3 * CHUNK + 100
    assert index.pack(1).size_bytes == 107


def test_golden_document() -> None:
    """Byte for byte as docs/image-format.md says."""
    a, b, c, unused = (digest(bytes([number]) * 5) for number in range(4))
    document = HEADER.pack(b"VZKINDEX", 1, CHUNK, 4 * CHUNK + 100, 2, 4, bytes(32))
    document += struct.pack("<2I", 2, 2)
    document += struct.pack("<4I", 300, CHUNK, 7, 100)
    document += a + b + unused + c
    document += struct.pack("<5I", 1, 0, 2, 1, 4)
    assert small_index().encode() == document
    assert ChunkIndex.parse(document) == small_index()


def test_zeros_of_the_last_chunk_are_zeros_too() -> None:
    chunks = ChunkList(CHUNK + 5, CHUNK, zero_digest(CHUNK) + zero_digest(5))
    index = ChunkIndex.build(chunks, [])
    assert [index.is_zero(number) for number in range(2)] == [True, True]
    assert index.data_bytes == 0
    assert ChunkIndex.parse(index.encode()).chunk_list() == chunks


def test_chunk_that_is_in_no_pack() -> None:
    chunks = ChunkList(CHUNK, CHUNK, digest(b"x"))
    with pytest.raises(ValueError, match="in none of the packs"):
        ChunkIndex.build(chunks, [])
    # Chunks are looked up by 8 bytes of their digest; the rest has to be the same, too.
    with pytest.raises(ValueError, match="in none of the packs"):
        ChunkIndex.build(chunks, [PackFrames([5], digest(b"x")[:31] + b"?")])


@st.composite
def files(draw: st.DrawFn) -> tuple[ChunkList, list[PackFrames]]:
    """A file of chunks that repeat, and packs in any order, with frames that are not used and some that are twice."""
    numbers = draw(st.lists(st.integers(0, 6), min_size=1, max_size=30))
    tail = draw(st.integers(1, CHUNK))
    frames = draw(st.permutations([*set(numbers) - {0}, *draw(st.lists(st.integers(1, 9), max_size=4))]))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(frames) - 1)), max_size=4)) | {0, len(frames)})
    packs = [
        PackFrames([min(10 + number, tail) for number in part], b"".join(digest(bytes([number])) for number in part))
        for part in (frames[start:end] for start, end in pairwise(cuts))
        if part
    ]
    size_bytes = (len(numbers) - 1) * CHUNK + tail
    lengths = [CHUNK] * (len(numbers) - 1) + [tail]
    digests = [digest(bytes([n])) if n else zero_digest(length) for n, length in zip(numbers, lengths, strict=True)]
    return ChunkList(size_bytes, CHUNK, b"".join(digests)), packs


@given(files(), st.booleans())
def test_index_says_what_it_was_built_from(file: tuple[ChunkList, list[PackFrames]], named: bool) -> None:
    chunks, packs = file
    index = ChunkIndex.build(chunks, packs, "sha256:" + "ab" * 32 if named else None)
    assert ChunkIndex.parse(index.encode()) == index
    assert index.encode() == ChunkIndex.build(chunks, packs, index.raw_digest).encode()
    assert index.chunk_list() == chunks
    assert [index.pack(number).digests for number in range(index.pack_count)] == [pack.digests for pack in packs]
    for number in range(index.count):
        assert index.digest(number) == chunks.chunk(number)
        if not index.is_zero(number):
            pack, offset, length = index.location(number)
            frames = list(packs[pack].lengths)
            frame = next(frame for frame in range(len(frames)) if sum(frames[:frame]) == offset)
            assert length == frames[frame]
            assert packs[pack].digests[frame * 32 : frame * 32 + 32] == index.digest(number)


@given(files(), st.data())
def test_document_with_a_wrong_byte_is_read_or_refused(file: tuple[ChunkList, list[PackFrames]], data: st.DataObject):
    document = bytearray(ChunkIndex.build(*file).encode())
    document[data.draw(st.integers(0, len(document) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        index = ChunkIndex.parse(bytes(document))
    except ValueError:
        return
    assert index.encode() == document
    for number in range(index.count):
        if not index.is_zero(number):
            pack, offset, length = index.location(number)
            assert 0 <= offset < offset + length <= index.pack_bytes(pack)
            assert 0 < length <= index.length(number) or number < index.count - 1


@given(st.binary(max_size=200))
def test_noise_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError):
        ChunkIndex.parse(document)


def document(**changes: int) -> bytes:
    """The header of a large file, whatever it claims, and nothing behind it."""
    fields = {"chunk": CHUNK, "size": CHUNK, "packs": 0, "frames": 0} | changes
    return HEADER.pack(b"VZKINDEX", 1, fields["chunk"], fields["size"], fields["packs"], fields["frames"], bytes(32))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (document() + bytes(4) + b"x", "an index of 69 bytes should have 68"),
        (document(size=CHUNK * 2**20), "should have"),
        (document(size=CHUNK * 2**20 + 1), "1 to 1048576 chunks are read"),
        (document(packs=2**32 - 1, frames=2**32 - 1), "should have"),
        (document(chunk=2 * KIB) + bytes(8), "chunks of 2048 bytes"),
        (document(chunk=32 * KIB * KIB) + bytes(4), "chunks of 33554432 bytes"),
        (document(chunk=5000) + bytes(4), "chunks of 5000 bytes"),
        (document(size=0), "a file of 0 bytes"),
        (document(size=2**63), "a file of 9223372036854775808 bytes"),
        (bytes(68), "not an index of version 1"),
        (b"VZKINDEX\2" + document()[9:] + bytes(4), "not an index of version 1"),
        (document() + struct.pack("<I", 1), "a frame that does not exist"),
        (document(packs=1) + bytes(8), "the packs do not have"),
        (document(packs=1, frames=1) + struct.pack("<2I", 2, 9) + bytes(36), "the packs do not have"),
        (document(packs=2, frames=1) + struct.pack("<3I", 1, 0, 9) + bytes(36), "the packs do not have"),
        (document(packs=1, frames=1) + struct.pack("<2I", 1, 0) + bytes(36), "a frame is empty or longer"),
        (document(packs=1, frames=1) + struct.pack("<2I", 1, CHUNK + 1) + bytes(36), "a frame is empty or longer"),
        (
            document(packs=1, frames=1, size=10) + struct.pack("<2I", 1, 11) + bytes(32) + struct.pack("<I", 1),
            "the frame of the last chunk is longer",
        ),
        (
            document(packs=1, frames=17, chunk=2**24, size=2**24)
            + struct.pack("<18I", 17, *[2**24] * 17)
            + bytes(17 * 32 + 4),
            "a pack has more than 268435456 bytes",
        ),
        (bytes(chunk_index.INDEX_LIMIT_BYTES + 1), "64 to 33554432 are read"),
        (b"", "an index of 0 bytes"),
    ],
)
def test_figures_that_contradict_each_other_or_break_a_limit(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChunkIndex.parse(content)


def test_claims_do_not_size_memory() -> None:
    """What a header says about a file that is not there is compared before anything is made of it."""
    with pytest.raises(ValueError, match="chunks are read"):
        ChunkIndex.parse(document(size=2**63 - 1))
    with pytest.raises(ValueError, match="should have"):
        ChunkIndex.parse(document(packs=2**32 - 1, frames=2**32 - 1))


@pytest.mark.parametrize(
    ("size_bytes", "chunk_bytes"),
    [
        (1, 256 * KIB),
        (128 * 2**30, 256 * KIB),
        (128 * 2**30 + 1, 512 * KIB),
        (1024 * 2**30, 2048 * KIB),
        (2**50, 16 * 2**20),
    ],
)
def test_larger_files_have_larger_chunks(size_bytes: int, chunk_bytes: int) -> None:
    assert chunk_bytes_for(size_bytes) == chunk_bytes


def test_index_of_128_gib_without_a_hole_is_within_the_limit() -> None:
    count = 512 * KIB
    index = ChunkIndex(
        count * 256 * KIB,
        256 * KIB,
        None,
        array("I", [128] * (count // 128)),
        array("I", [256 * KIB]) * count,
        bytes(32 * count),
        array("I", range(1, count + 1)),
    )
    assert len(index.encode()) < chunk_index.INDEX_LIMIT_BYTES * 2 // 3
    assert index.location(count - 1) == Location(count // 128 - 1, 127 * 256 * KIB, 256 * KIB)


# --- The list of a file's chunks


def test_golden_list() -> None:
    chunks = ChunkList(10, 4, b"a" * 32 + b"b" * 32 + b"c" * 32)
    content = b"VZCHUNKS" + struct.pack(">QQ", 10, 4) + b"a" * 32 + b"b" * 32 + b"c" * 32
    assert chunks.to_bytes() == content
    assert ChunkList.from_bytes(content) == chunks
    assert chunks.digest() == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert [chunks.length(number) for number in range(3)] == [4, 4, 2]
    assert chunks.chunk(2) == b"c" * 32
    for number in (-1, 3):
        with pytest.raises(IndexError):
            chunks.chunk(number)


@given(st.integers(1, 2000), st.integers(1, 100), st.data())
def test_list_there_and_back(size_bytes: int, chunk_bytes: int, data: st.DataObject) -> None:
    count = -(-size_bytes // chunk_bytes)
    chunks = ChunkList(size_bytes, chunk_bytes, data.draw(st.binary(min_size=32, max_size=32)) * count)
    assert ChunkList.from_bytes(chunks.to_bytes()) == chunks
    for other in (ChunkList(size_bytes, chunk_bytes, bytes(32) * count),):
        assert other == chunks or other.digest() != chunks.digest()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"VZCHUNKS",
        b"VZCHUNK?" + struct.pack(">QQ", 1, 1) + bytes(32),
        b"VZCHUNKS" + struct.pack(">QQ", 1, 1) + bytes(31),
        b"VZCHUNKS" + struct.pack(">QQ", 1, 1) + bytes(64),
        b"VZCHUNKS" + struct.pack(">QQ", 1, 0),
        b"VZCHUNKS" + struct.pack(">QQ", 2**63, 1),
    ],
)
def test_list_that_is_none(content: bytes) -> None:
    with pytest.raises(ValueError):
        ChunkList.from_bytes(content)
