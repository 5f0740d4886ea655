"""Any data, any encoder, any cut: going on gives the same bytes, or it is said that it cannot be done."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from vzkubelet.images import gzip_stream
from vzkubelet.images.gzip_stream import Inflater
from vzkubelet.images.pull import deflate_resume
from vzkubelet.images.pull.deflate_resume import TAIL_BYTES, Candidate, Kind, candidates, resume

NOISE = random.Random(1)
Encode = Callable[[bytes], bytes]


def flushing(data: bytes) -> bytes:
    """As pgzip does: blocks of 100,000 bytes, each ended by an empty stored block, in one member."""
    stream = zlib.compressobj(6, zlib.DEFLATED, 31)
    parts = [data[start : start + 100_000] for start in range(0, len(data), 100_000)]
    return b"".join([stream.compress(part) + stream.flush(zlib.Z_SYNC_FLUSH) for part in parts]) + stream.flush()


def members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[start : start + 50_000]) for start in range(0, len(data), 50_000))


ENCODERS: dict[str, Encode] = {
    "zlib 0": lambda data: gzip.compress(data, 0),
    "zlib 1": lambda data: gzip.compress(data, 1),
    "zlib 6": lambda data: gzip.compress(data, 6),
    "zlib 9": lambda data: gzip.compress(data, 9),
    "isal 1": lambda data: isal_zlib.compress(data, 1, 31),
    "isal 2": lambda data: isal_zlib.compress(data, 2, 31),
    "isal 3": lambda data: isal_zlib.compress(data, 3, 31),
    "flushing": flushing,
    "members": members,
}


def disk() -> bytes:
    """What a disk is like: text, holes, noise, tables."""
    words = [NOISE.randbytes(NOISE.randrange(2, 12)) for _ in range(300)]
    text = b"".join(NOISE.choices(words, k=120_000))
    table = b"".join(number.to_bytes(8, "little") + b"\0\0\xff\xff" for number in range(20_000))
    return text[:400_000] + bytes(900_000) + NOISE.randbytes(500_000) + table + text[400_000:]


DISK = disk()


def inflate(data: bytes, feed_bytes: int = 65536) -> int:
    inflater = Inflater(1 << 20)
    size = 0
    for start in range(0, len(data), feed_bytes):
        size += sum(map(len, inflater.feed(data[start : start + feed_bytes])))
    return size


def goes_on(raw: bytes, compressed: bytes, cut: int, tail_bytes: int = TAIL_BYTES, feed_bytes: int = 65536) -> bool:
    """Whether it can be gone on at `cut`; if so the rest is right."""
    known = inflate(compressed[:cut], feed_bytes)
    resumed = resume(compressed[max(0, cut - tail_bytes) : cut], known, lambda start, end: raw[start:end], 1 << 16)
    if resumed is None:
        return False
    assert resumed.offset <= known
    rest = resumed.pending + b"".join(resumed.inflater.feed(compressed[cut:]))
    resumed.inflater.finish()
    assert rest == raw[resumed.offset :]
    return True


@pytest.mark.parametrize("codec", ["isal", "zlib"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_goes_on_at_any_cut_of_a_disk(encoder: str, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec == "zlib":
        monkeypatch.setattr(gzip_stream, "_codec", zlib)
    compressed = ENCODERS[encoder](DISK)
    for cut in random.Random(encoder).sample(range(200_000, len(compressed)), 3):
        assert goes_on(DISK, compressed, cut, tail_bytes=180_000, feed_bytes=50_000)


@settings(max_examples=25)
@given(data=st.data())
def test_any_data_any_level_any_cut(data: st.DataObject) -> None:
    seed = random.Random(data.draw(st.integers(0, 2**32)))
    pieces = data.draw(st.lists(st.tuples(st.sampled_from("ntzr"), st.integers(1, 40_000)), min_size=1, max_size=4))
    raw = b"".join(_piece(kind, size, seed) for kind, size in pieces)
    encoder = data.draw(st.sampled_from(sorted(ENCODERS)))
    compressed = ENCODERS[encoder](raw)
    cut = data.draw(st.integers(1, len(compressed)))
    tail_bytes = data.draw(st.sampled_from([10_000, 80_000, TAIL_BYTES]))
    went_on = goes_on(raw, compressed, cut, tail_bytes, data.draw(st.sampled_from([1000, 65536])))
    assert went_on or tail_bytes < cut or cut < 3  # with all of the stream there is nothing to look for


def _piece(kind: str, size: int, seed: random.Random) -> bytes:
    match kind:
        case "n":
            return seed.randbytes(size)
        case "t":
            return b"".join(b"%d lines of text\n" % seed.randrange(1000) for _ in range(size // 18))
        case "z":
            return bytes(size * 20)
        case _:
            return seed.randbytes(3) * (size // 3)


def test_file_that_is_not_what_the_stream_expands_to() -> None:
    compressed = gzip.compress(DISK)
    other = bytearray(DISK)
    cut = len(compressed) - 1000
    known = inflate(compressed[:cut])
    for position in range(0, known, 500):
        other[position] ^= 1
    tail = compressed[cut - 300_000 : cut]
    assert resume(tail, known, lambda start, end: bytes(other[start:end]), 1 << 16) is None


def test_tail_without_a_block() -> None:
    """One block for everything, as isal's level 0 writes it."""
    text = b"".join(b"%d lines of text\n" % NOISE.randrange(1000) for _ in range(100_000))
    compressed = isal_zlib.compress(text, 0, 31)
    cut = len(compressed) - 1000
    tail = compressed[cut - 200_000 : cut]
    assert resume(tail, inflate(compressed[:cut]), lambda start, end: text[start:end], 1 << 16) is None


def test_tail_of_many_zeros_expands_in_bounded_pieces() -> None:
    size = 64 << 20
    compressed = gzip.compress(bytes(size), 6)
    cut = len(compressed) - 100
    longest = 0

    def read(start: int, end: int) -> bytes:
        nonlocal longest
        longest = max(longest, end - start)
        return bytes(end - start)

    resumed = resume(compressed[cut - 40_000 : cut], inflate(compressed[:cut]), read, 1 << 20)
    assert resumed is not None
    assert longest <= 1 << 18
    assert resumed.offset + len(resumed.pending) + sum(map(len, resumed.inflater.feed(compressed[cut:]))) == size


def test_trials_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data full of what looks like empty stored blocks must not keep a thread for hours."""
    monkeypatch.setattr(deflate_resume, "_TRIAL_LIMIT", 20)
    tried = 0
    expanded = deflate_resume._expanded_bytes

    def count(tail: bytes, candidate: Candidate) -> int | None:
        nonlocal tried
        tried += 1
        return expanded(tail, candidate)

    monkeypatch.setattr(deflate_resume, "_expanded_bytes", count)
    assert resume(b"\0\0\xff\xff\x07" * 50_000, 10_000_000, lambda start, end: bytes(end - start), 1 << 16) is None
    assert tried == 20


def test_candidates_are_found_on_every_bit() -> None:
    """Blocks with codes of their own begin anywhere; the true ones are among the candidates."""
    compressed = gzip.compress(DISK, 6)[:300_000]
    found = [candidate for candidate in candidates(compressed) if candidate.kind is Kind.DYNAMIC]
    assert {candidate.bit for candidate in found} == set(range(8))
