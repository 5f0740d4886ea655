"""Pieces compressed apart are one gzip member that every reader takes, whatever the library."""

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images import gzip_encoder
from vzkubelet.images.gzip_encoder import Deflated, Member, combine_crc32, deflate, deflate_zeros
from vzkubelet.images.gzip_stream import Inflater

TEXT = b"The quick brown fox. " * 5000
NOISE = random.Random(1).randbytes(200_000)


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    deflate_zeros.cache_clear()
    if request.param == "zlib":
        monkeypatch.setattr(gzip_encoder, "_fast", zlib)


def joined(pieces: list[Deflated]) -> bytes:
    member = Member()
    return b"".join([member.header, *map(member.add, pieces), member.finish()])


@pytest.mark.parametrize("level", gzip_encoder.LEVELS)
def test_one_member_of_text_noise_and_zeros(level: int) -> None:
    parts = [TEXT, NOISE, b"", bytes(70_000), b"x"]
    data = joined([deflate(part, level) for part in parts])
    assert gzip.decompress(data) == b"".join(parts)
    # Exactly one member: nothing is left when the first has ended.
    stream = zlib.decompressobj(31)
    assert stream.decompress(data) == b"".join(parts)
    assert stream.eof
    assert not stream.unused_data
    inflater = Inflater(1 << 20)
    assert b"".join(inflater.feed(data)) == b"".join(parts)
    inflater.finish()


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_any_pieces(parts: list[bytes]) -> None:
    assert gzip.decompress(joined([deflate(part) for part in parts])) == b"".join(parts)


@given(st.binary(max_size=500), st.binary(max_size=500))
def test_checksums_combine(first: bytes, second: bytes) -> None:
    assert combine_crc32(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_checksum_over_a_hole_longer_than_32_bits_of_size() -> None:
    """The length is part of the mathematics; nothing of that size is made."""
    tebibyte = 1 << 40
    crc = zlib.crc32(TEXT)
    doubled = combine_crc32(crc, 0, tebibyte)
    assert combine_crc32(doubled, 0, tebibyte) == combine_crc32(crc, 0, 2 * tebibyte)


def test_noise_is_stored_and_grows_by_almost_nothing() -> None:
    assert len(NOISE) < len(deflate(NOISE).data) < len(NOISE) * 1.001


def test_noise_at_one_end_does_not_hide_what_can_be_compressed() -> None:
    assert len(deflate(NOISE + TEXT * 2).data) < len(NOISE) * 1.2


def test_zeros_are_compressed_once() -> None:
    assert deflate_zeros(1 << 20) is deflate_zeros(1 << 20)
    assert gzip.decompress(joined([deflate_zeros(1 << 20)])) == bytes(1 << 20)
    assert len(deflate_zeros(1 << 20).data) < 1100


def test_equal_input_gives_equal_output_without_a_time() -> None:
    data = joined([deflate(TEXT), deflate(NOISE)])
    assert data == joined([deflate(TEXT), deflate(NOISE)])
    assert data[4:8] == bytes(4)


def test_size_beyond_32_bits_wraps_in_the_trailer() -> None:
    member = Member()
    member.add(Deflated(b"", 0, (1 << 32) + 5))
    assert member.finish()[-4:] == (5).to_bytes(4, "little")
