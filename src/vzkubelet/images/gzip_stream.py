"""gzip as it comes: any valid gzip, several members included. `gzip_encoder` is the way back.

isal is used where it is installed (2 to 10 times as fast), zlib otherwise. Both release the GIL.
"""

import zlib
from collections.abc import Iterator
from typing import Any

try:
    from isal import igzip_lib, isal_zlib

    _codec: Any = isal_zlib
    _errors: tuple[Any, ...] = (zlib.error, igzip_lib.IsalError)
except ImportError:  # a platform without a wheel
    _codec = zlib
    _errors = (zlib.error,)

_GZIP = 31
"""wbits of 32 KiB windows with a gzip header and trailer."""
_RAW = -15
"""The same without either."""
_TRAILER_BYTES = 8


class DamagedGzip(ValueError):
    """The data is not what gzip writes. Stays in this room: the receiver says which blob it was."""


class Inflater:
    """Decompresses what it is fed; output comes in pieces of bounded size, whatever the input expands to.

    Members may follow each other, and zero bytes may follow the last one, as gzip(1) and Go accept it.
    """

    def __init__(self, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes
        """May be changed between two pieces."""
        self._member = _codec.decompressobj(_GZIP)
        self._begun = False
        self._padding = False
        self._pending = False
        self._trailer_bytes = 0
        """Still to be passed over after a member that was entered in its middle: its checksum cannot be known."""

    @classmethod
    def inside(cls, piece_bytes: int, window: bytes) -> "Inflater":
        """One that is fed from the beginning of a deflate block in the middle of a member, at a byte's first bit.

        `window` is what the member expanded to before it, up to the last 32 KiB (RFC 1951, 2).
        """
        inflater = cls(piece_bytes)
        inflater._member = _codec.decompressobj(_RAW, zdict=window) if window else _codec.decompressobj(_RAW)
        inflater._begun = True
        inflater._trailer_bytes = _TRAILER_BYTES
        return inflater

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most `piece_bytes`.

        Raises:
            DamagedGzip: not gzip, or damaged.
        """
        while data or self._pending:
            if self._member.eof:
                skipped = min(self._trailer_bytes, len(data))
                data = data[skipped:]
                self._trailer_bytes -= skipped
                if not data or not self._next_member(data):
                    return
            self._begun = True
            try:
                piece = self._member.decompress(data, self.piece_bytes)
            except _errors as exc:
                raise DamagedGzip(f"the compressed data is damaged: {exc}") from exc
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            # A full piece may mean that the codec has taken all input and still holds output back.
            self._pending = not self._member.eof and len(piece) == self.piece_bytes
            if piece:
                yield piece

    def finish(self) -> None:
        """Raises DamagedGzip when the data ends inside a member."""
        if self._begun and not (self._member.eof and not self._trailer_bytes):
            raise DamagedGzip("the compressed data ends too early")
        if not self._begun:
            raise DamagedGzip("the compressed data is empty")

    def _next_member(self, data: bytes) -> bool:
        """Whether `data` begins another member; zero bytes are padding, and only they may follow it."""
        self._padding = self._padding or data[:1] == b"\0"
        if self._padding and data.strip(b"\0"):
            raise DamagedGzip("something other than gzip follows the compressed data")
        if not self._padding:
            self._member = _codec.decompressobj(_GZIP)
        return not self._padding
