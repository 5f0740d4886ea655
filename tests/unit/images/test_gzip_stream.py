"""gzip of every kind in, whole, byte by byte and with trailing data; bounded pieces out."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.images import gzip_stream
from vzkubelet.images.gzip_stream import DamagedGzip, Inflater

TEXT = b"The quick brown fox. " * 5000


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both libraries behave alike."""
    if request.param == "zlib":
        monkeypatch.setattr(gzip_stream, "_codec", zlib)
    return str(request.param)


def inflate(data: bytes, feed_bytes: int = 1 << 20, piece_bytes: int = 1 << 16) -> bytes:
    inflater, pieces = Inflater(piece_bytes), []
    for position in range(0, len(data), feed_bytes):
        for piece in inflater.feed(data[position : position + feed_bytes]):
            assert 0 < len(piece) <= piece_bytes
            pieces.append(piece)
    inflater.finish()
    return b"".join(pieces)


@pytest.mark.parametrize("feed_bytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 20])
def test_any_feeding_and_any_bound(feed_bytes: int, piece_bytes: int) -> None:
    text = TEXT[:3000]
    assert inflate(gzip.compress(text), feed_bytes, piece_bytes) == text


@pytest.mark.parametrize("feed_bytes", [1, 1 << 20])
def test_members_one_after_another_and_padding_of_zeros(feed_bytes: int) -> None:
    data = gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"bc", 9) + bytes(100)
    assert inflate(data, feed_bytes) == b"abc"


def test_stored_blocks_and_flush_points() -> None:
    stream = zlib.compressobj(0, zlib.DEFLATED, 31)
    data = stream.compress(TEXT) + stream.flush(zlib.Z_FULL_FLUSH) + stream.compress(TEXT) + stream.flush()
    assert inflate(data, 1000) == TEXT * 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not gzip at all, however long it may be", "damaged"),
        (gzip.compress(TEXT)[:-1], "ends too early"),
        (gzip.compress(TEXT)[:-9], "ends too early"),
        (gzip.compress(TEXT)[:5], "ends too early"),
        (gzip.compress(TEXT)[:-6] + b"\0\0\0\0\0\0", "damaged"),
        (gzip.compress(TEXT) + b"garbage that follows", "damaged"),
        (gzip.compress(TEXT) + b"\0\0garbage", "something other than gzip"),
        (b"", "empty"),
    ],
)
@pytest.mark.parametrize("feed_bytes", [1, 1 << 20])
def test_damage_is_seen(data: bytes, words: str, feed_bytes: int) -> None:
    with pytest.raises(DamagedGzip, match=words):
        inflate(data, feed_bytes)


def test_bomb_comes_in_bounded_pieces() -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    pieces = Inflater(1 << 16).feed(bomb)
    assert [len(next(pieces)) for _ in range(10)] == [1 << 16] * 10


def test_bound_may_change_between_pieces() -> None:
    inflater = Inflater(10)
    pieces = inflater.feed(gzip.compress(bytes(100)))
    assert len(next(pieces)) == 10
    inflater.piece_bytes = 3
    assert len(next(pieces)) == 3


@given(parts=st.lists(st.binary(max_size=2000), max_size=5), feed_bytes=st.integers(1, 500), piece=st.integers(1, 500))
def test_round_trip(parts: list[bytes], feed_bytes: int, piece: int) -> None:
    data = b"".join(map(gzip.compress, parts)) or gzip.compress(b"")
    assert inflate(data, feed_bytes, piece) == b"".join(parts)
