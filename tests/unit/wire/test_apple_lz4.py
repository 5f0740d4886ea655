"""Apple's LZ4 frames: golden ones built by hand from what is documented, and any data there and back."""

import random
import struct

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import feeding
from vzkubelet.wire import apple_lz4
from vzkubelet.wire.apple_lz4 import DamagedFrame, Decoder, Encoder, encode

BLOCK = 64 * 1024
END = b"bv4$"


def stored(data: bytes) -> bytes:
    return b"bv4-" + struct.pack("<I", len(data)) + data


def compressed(block: bytes, raw_bytes: int) -> bytes:
    return b"bv41" + struct.pack("<II", raw_bytes, len(block)) + block


def decode(data: bytes, cut: feeding.Cut = feeding.whole, piece_bytes: int = 4096) -> bytes:
    decoder = Decoder(piece_bytes)
    pieces = [piece for part in cut(data) for piece in decoder.feed(part)]
    assert all(0 < len(piece) <= piece_bytes for piece in pieces)
    decoder.finish()
    return b"".join(pieces)


# A raw LZ4 block by hand (lz4 block format): token 0x32 = 3 literals and a match of 2 + 4 bytes, offset 3,
# then the last sequence: token 0xC0 = 12 literals and no match (a match must not begin in the last 12 bytes).
BY_HAND = bytes([0x32]) + b"abc" + struct.pack("<H", 3) + bytes([0xC0]) + b"end of block"
BY_HAND_RAW = b"abcabcabcend of block"

# The same match, but its offset reaches 9 bytes back: 6 bytes into the previous block's output.
LINKED = bytes([0x32]) + b"xyz" + struct.pack("<H", 9) + bytes([0xC0]) + b"end of block"
LINKED_RAW = b"xyz" + b"012345" + b"end of block"


@pytest.mark.parametrize(
    ("frame", "raw"),
    [
        (END, b""),
        (stored(b"hello") + END, b"hello"),
        (stored(b"") + stored(b"x") + END, b"x"),
        (compressed(BY_HAND, 21) + END, BY_HAND_RAW),
        (compressed(BY_HAND, 21) + stored(b"-") + compressed(BY_HAND, 21) + END, BY_HAND_RAW + b"-" + BY_HAND_RAW),
        (stored(b"012345") + compressed(LINKED, 21) + END, b"012345" + LINKED_RAW),
        # The window spans several short blocks.
        (stored(b"012") + stored(b"345") + compressed(LINKED, 21) + END, b"012345" + LINKED_RAW),
    ],
)
@pytest.mark.parametrize("cut", feeding.CUTS)
def test_golden_frames(frame: bytes, raw: bytes, cut: feeding.Cut) -> None:
    assert decode(frame, cut) == raw


def linked_frame(data: bytes) -> bytes:
    """What Apple's encoder writes: blocks of 64 KiB that refer to the one before."""
    frame, before = b"", b""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        frame += compressed(lz4.block.compress(block, store_size=False, dict=before), len(block))
        before = block
    return frame + END


def test_linked_blocks_of_full_size() -> None:
    noise = random.Random(1).randbytes(BLOCK // 2)
    data = noise * 7 + b"tail"
    frame = linked_frame(data)
    assert len(frame) < 1.2 * len(noise)  # they do refer back: alone, noise does not shrink
    assert decode(frame, piece_bytes=1 << 20) == data


@given(st.binary(max_size=300), st.integers(1, 1000), st.integers(0, 400), st.integers(1, 5000))
def test_any_data_there_and_back_however_it_is_cut(seed: bytes, times: int, cut_at: int, piece_bytes: int) -> None:
    data = seed * times
    encoder = Encoder()
    frame = encoder.feed(data[:cut_at]) + encoder.feed(data[cut_at:]) + encoder.finish()
    assert frame == encode(data)
    decoder = Decoder(piece_bytes)
    pieces = [piece for part in (frame[:cut_at], frame[cut_at:]) for piece in decoder.feed(part)]
    decoder.finish()
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= piece_bytes for piece in pieces)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 7])
def test_blocks_are_64_kib_and_independent(size: int) -> None:
    data = (b"virtual machine " * (size // 16 + 1))[:size]
    frame, found, position = encode(data), b"", 0
    while frame[position : position + 4] != END:
        mark, raw_bytes = frame[position : position + 4], *struct.unpack_from("<I", frame, position + 4)
        assert raw_bytes == min(BLOCK, size - len(found))
        if mark == b"bv41":
            (length,) = struct.unpack_from("<I", frame, position + 8)
            block = frame[position + 12 : position + 12 + length]
            found += lz4.block.decompress(block, uncompressed_size=raw_bytes)
            position += 12 + length
        else:
            assert mark == b"bv4-"
            found += frame[position + 8 : position + 8 + raw_bytes]
            position += 8 + raw_bytes
    assert frame[position:] == END
    assert found == data


def test_what_does_not_shrink_is_stored() -> None:
    noise = random.Random(2).randbytes(BLOCK + 10)
    assert encode(noise) == stored(noise[:BLOCK]) + stored(noise[BLOCK:]) + END


def test_zeros_pack_well() -> None:
    assert len(encode(bytes(64 * BLOCK))) < 64 * 300


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"bvx2" + bytes(20), "0x62767832 is not the beginning of a block"),
        (stored(b"hello") + END + b"x", "something follows the end"),
        (END + END, "something follows the end"),
        (compressed(BY_HAND, 20) + END, "damaged|instead of 20"),
        (compressed(BY_HAND, 22) + END, "has 21 bytes instead of 22"),
        (compressed(b"\xff" * 10, 100) + END, "a block is damaged"),
        (compressed(LINKED, 21) + END, "a block is damaged"),  # refers to before the beginning
        (compressed(BY_HAND, 0), "a block of 0 bytes"),
        (compressed(BY_HAND, 4 * 1024 * 1024 + 1), "a block of 4194305 bytes"),
        (b"bv41" + struct.pack("<II", 64, 2**32 - 1), "4294967295 bytes cannot be a compressed block of 64 bytes"),
        (b"bv41" + struct.pack("<II", 64, 0), "0 bytes cannot be"),
    ],
)
@pytest.mark.parametrize("cut", feeding.CUTS)
def test_damage_is_found_at_once(frame: bytes, words: str, cut: feeding.Cut) -> None:
    decoder = Decoder(4096)
    with pytest.raises(DamagedFrame, match=words):
        [piece for part in cut(frame) for piece in decoder.feed(part)]


@pytest.mark.parametrize("length", [0, 1, 4, 7, 8, 12, 17, 20, 30, 33])
def test_frame_that_is_cut_off(length: int) -> None:
    frame = stored(b"hello") + compressed(BY_HAND, 21) + END
    decoder = Decoder(4096)
    assert b"".join(decoder.feed(frame[:length])) == b"hello"[: max(0, length - 8)]
    with pytest.raises(DamagedFrame, match="ends too early"):
        decoder.finish()


def test_sizes_in_a_hostile_frame_do_not_size_memory() -> None:
    """A stored block may claim 4 GiB: what comes is handed on, nothing is gathered."""
    decoder = Decoder(1 << 20)
    total = sum(len(piece) for piece in decoder.feed(b"bv4-" + struct.pack("<I", 2**32 - 1)))
    for _ in range(64):
        total += sum(len(piece) for piece in decoder.feed(bytes(1 << 20)))
        assert len(decoder._buffer) <= (1 << 20) + 8
    assert total == 64 << 20
    with pytest.raises(DamagedFrame, match="ends too early"):
        decoder.finish()


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_crashes(data: bytes) -> None:
    decoder = Decoder(64)
    try:
        list(decoder.feed(data))
        decoder.finish()
    except DamagedFrame:
        return
    assert data.endswith(END)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 2**16), st.integers(1, 255))
def test_one_wrong_byte_never_crashes(data: bytes, position: int, change: int) -> None:
    frame = bytearray(encode(data * 20))
    frame[position % len(frame)] ^= change
    decoder = Decoder(1000)
    try:
        pieces = list(decoder.feed(bytes(frame)))
        decoder.finish()
    except DamagedFrame:
        return
    assert sum(map(len, pieces)) <= apple_lz4.BLOCK_LIMIT_BYTES


@given(data=st.data())
def test_goes_on_at_any_boundary(data: st.DataObject) -> None:
    raw = b"".join(data.draw(st.lists(st.sampled_from([b"text " * 30_000, bytes(range(256)) * 500]), max_size=3)))
    compressed = encode(raw)
    cut = data.draw(st.integers(0, len(compressed)))
    decoder = Decoder(1 << 20)
    before = b"".join(decoder.feed(compressed[:cut]))
    consumed, emitted = decoder.boundary
    assert consumed <= cut
    assert emitted <= len(before)
    rest = Decoder(1 << 20, history=raw[:emitted])
    assert b"".join(rest.feed(compressed[consumed:])) == raw[emitted:]
    rest.finish()
