"""The frames in which Apple's Compression framework writes LZ4 (``COMPRESSION_LZ4``), both ways, without IO.

A frame is blocks and an end mark; integers have 32 bits, little-endian (Apple's documentation of COMPRESSION_LZ4):

- ``bv41`` raw size, compressed size, a raw LZ4 block. It may refer to what earlier blocks of the frame became, at most
  64 KiB back: Apple's own encoder does so.
- ``bv4-`` size, that many bytes as they are.
- ``bv4$`` the end.
"""

import struct
from collections.abc import Iterator

import lz4.block

ENCODED_BLOCK_BYTES = 64 * 1024
"""What Apple's encoder puts in one block, and ours."""
BLOCK_LIMIT_BYTES = 4 * 1024 * 1024
"""Largest raw size of a block that is decoded: it is held in memory. Known encoders write 64 KiB."""
_WINDOW_BYTES = 64 * 1024
"""How far a raw LZ4 block can refer back."""
_COMPRESSED, _STORED, _END = b"bv41", b"bv4-", b"bv4$"
_MARK_BYTES = 4
_TWO_SIZES = struct.Struct("<II")
_SIZE = struct.Struct("<I")


class DamagedFrame(ValueError):
    """The data is not one frame of Apple's LZ4. The caller says which blob it was."""


class Decoder:
    """Decodes one frame that comes in parts cut anywhere; output comes in pieces of bounded size.

    Memory is bounded by the limit of a block and what is fed at once, whatever the sizes in the data say.
    """

    def __init__(self, piece_bytes: int, history: bytes = b"") -> None:
        """One that begins at a `boundary` in the middle of a frame needs what the last 64 KiB before it became."""
        self.piece_bytes = piece_bytes
        """May be changed between two pieces."""
        self.boundary = (0, 0)
        """Compressed and raw bytes before the last block that was begun, counted from where this decoder began."""
        self._consumed_bytes = self._emitted_bytes = 0
        self._buffer = bytearray()
        self._position = 0
        self._history = history[-_WINDOW_BYTES:]
        self._stored_left = 0
        self._output = memoryview(b"")
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most `piece_bytes`.

        Raises:
            DamagedFrame: not a frame, or damaged.
        """
        del self._buffer[: self._position]
        self._consumed_bytes += self._position
        self._position = 0
        self._buffer += data
        while self._output or self._next_output():
            piece = bytes(self._output[: self.piece_bytes])
            self._output = self._output[len(piece) :]
            yield piece

    def finish(self) -> None:
        """Raises DamagedFrame when the data does not end where the frame does."""
        if not self._ended:
            raise DamagedFrame("the compressed data ends too early")

    def _next_output(self) -> bool:
        """Decode until there is output; False when more input is needed, or none may come."""
        while not self._output:
            if self._stored_left:
                if not self._take_stored():
                    return False
            elif not self._take_block():
                return False
        return True

    def _take_block(self) -> bool:
        """Take what one mark introduces, or nothing while it is not here as a whole."""
        left = len(self._buffer) - self._position
        if self._ended:
            if left:
                raise DamagedFrame("something follows the end of the compressed data")
            return False
        self.boundary = (self._consumed_bytes + self._position, self._emitted_bytes)
        if left < _MARK_BYTES:
            return False
        body = self._position + _MARK_BYTES
        mark = bytes(self._buffer[self._position : body])
        if mark == _COMPRESSED:
            return self._take_compressed(body)
        if mark == _STORED:
            if len(self._buffer) - body < _SIZE.size:
                return False
            (self._stored_left,) = _SIZE.unpack_from(self._buffer, body)
            self._position = body + _SIZE.size
        elif mark == _END:
            self._ended = True
            self._position = body
        else:
            raise DamagedFrame(f"0x{mark.hex()} is not the beginning of a block")
        return True

    def _take_compressed(self, body: int) -> bool:
        if len(self._buffer) - body < _TWO_SIZES.size:
            return False
        raw_bytes, compressed_bytes = _TWO_SIZES.unpack_from(self._buffer, body)
        if not 0 < raw_bytes <= BLOCK_LIMIT_BYTES:
            raise DamagedFrame(f"a block of {raw_bytes} bytes; at least 1 and at most {BLOCK_LIMIT_BYTES} are decoded")
        if not 0 < compressed_bytes <= _bound(raw_bytes):
            raise DamagedFrame(f"{compressed_bytes} bytes cannot be a compressed block of {raw_bytes} bytes")
        start = body + _TWO_SIZES.size
        end = start + compressed_bytes
        if len(self._buffer) < end:
            return False
        block = bytes(memoryview(self._buffer)[start:end])
        self._position = end
        self._emit(self._decompress(block, raw_bytes))
        return True

    def _decompress(self, block: bytes, raw_bytes: int) -> bytes:
        try:
            output: bytes = lz4.block.decompress(block, uncompressed_size=raw_bytes, dict=self._history)
        except (lz4.block.LZ4BlockError, ValueError) as exc:
            raise DamagedFrame(f"a block is damaged: {exc}") from exc
        if len(output) != raw_bytes:
            raise DamagedFrame(f"a block has {len(output)} bytes instead of {raw_bytes}")
        return output

    def _take_stored(self) -> bool:
        """Stored bytes are handed on as they come: their size needs no limit."""
        output = bytes(memoryview(self._buffer)[self._position : self._position + self._stored_left])
        if not output:
            return False
        self._position += len(output)
        self._stored_left -= len(output)
        self._emit(output)
        return True

    def _emit(self, output: bytes) -> None:
        self._emitted_bytes += len(output)
        self._history = (output if len(output) >= _WINDOW_BYTES else self._history + output)[-_WINDOW_BYTES:]
        self._output = memoryview(output)


class Encoder:
    """Encodes into one frame of independent blocks, which any reader takes. Equal input gives equal output with one
    version of the LZ4 library, however the input is cut."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes | memoryview) -> bytes:
        """What can be said already; at most a block is held back."""
        parts: list[bytes] = []
        view = memoryview(data)
        if self._pending:
            missing = ENCODED_BLOCK_BYTES - len(self._pending)
            self._pending += view[:missing]
            view = view[missing:]
            if len(self._pending) < ENCODED_BLOCK_BYTES:
                return b""
            parts.append(_block(memoryview(self._pending)))
            self._pending = b""
        whole = len(view) - len(view) % ENCODED_BLOCK_BYTES
        parts += [_block(view[start : start + ENCODED_BLOCK_BYTES]) for start in range(0, whole, ENCODED_BLOCK_BYTES)]
        self._pending = bytes(view[whole:])
        return b"".join(parts)

    def finish(self) -> bytes:
        """The rest, with the end mark."""
        rest = _block(memoryview(self._pending)) if self._pending else b""
        self._pending = b""
        return rest + _END


def encode(data: bytes | memoryview) -> bytes:
    """The frame of `data`."""
    encoder = Encoder()
    return encoder.feed(data) + encoder.finish()


def _block(raw: memoryview) -> bytes:
    compressed: bytes = lz4.block.compress(raw, store_size=False)
    if len(compressed) + _SIZE.size < len(raw):  # the size that a stored block does not say counts, too
        return _COMPRESSED + _TWO_SIZES.pack(len(raw), len(compressed)) + compressed
    return _STORED + _SIZE.pack(len(raw)) + raw


def _bound(raw_bytes: int) -> int:
    """The largest compressed form that LZ4 makes of that many bytes."""
    return raw_bytes + raw_bytes // 255 + 16
