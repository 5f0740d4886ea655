"""One stream from the network into a run of a raw file, in one pass.

event loop: pieces -> batches | thread 1: sha256 of the blobs
                              | thread 2: decode | thread 3: sha256 of the content
                                                 | thread 4: write what is not zeros

Queues between them are bounded, so memory is too, whatever the stream's size and whatever it expands to. Digests and
sizes are verified before `StreamMove.run` returns; what was written before is of no value until then.
"""

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from vzkubelet.errors import Integrity
from vzkubelet.images.formats.artifact import PULL_REASON, Encoding, Stream
from vzkubelet.images.gzip_stream import DamagedGzip, Inflater
from vzkubelet.images.pull.journal import Journal
from vzkubelet.images.pull.ledger import Checkpoint
from vzkubelet.images.pull.pipeline import Inlet, Pipeline
from vzkubelet.images.pull.writer import RawFile, Writer
from vzkubelet.images.verification import extents
from vzkubelet.wire import apple_lz4
from vzkubelet.wire.apple_lz4 import DamagedFrame

PIECE_BYTES = 1024 * 1024
_GATHERED_BYTES = 512 * 1024
BATCH_BYTES = 512 * 1024
"""Compressed bytes decoded at once: the codec copies what it has not taken yet for each piece."""
_BATCHES = 3
_PIECES = 4
"""Lengths of the queues, measured: more does not help, less lets one stage wait for another. A kill loses them."""
_ZEROS = bytes(PIECE_BYTES)


class Decoder(Protocol):
    piece_bytes: int

    def feed(self, data: bytes, /) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class Copying:
    """The decoder of what is not compressed."""

    def __init__(self, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes

    def feed(self, data: bytes, /) -> Iterator[bytes]:
        for start in range(0, len(data), self.piece_bytes):
            yield data[start : start + self.piece_bytes]

    def finish(self) -> None:
        """Any end is a good one."""


def decoder(encoding: Encoding) -> Decoder:
    match encoding:
        case Encoding.GZIP:
            return Inflater(PIECE_BYTES)
        case Encoding.APPLE_LZ4:
            return apple_lz4.Decoder(PIECE_BYTES)
        case Encoding.IDENTITY:
            return Copying(PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a stream is gone on with: the position reached, and a decoder that has taken everything before it."""

    at: Checkpoint
    decoder: Decoder
    pending: bytes = b""
    """Output of the decoder that belongs at the position already."""


class StreamMove:
    """Moves `stream`, the `number`th of its content."""

    def __init__(self, stream: Stream, number: int, begin: Begin, file: RawFile, journal: Journal, name: str) -> None:
        self._stream = stream
        self._number = number
        self._begin = begin
        self._file = file
        self._journal = journal
        self._name = name
        self._what = f"blob {stream.blobs[0].digest}"
        self._blob_bytes = sum(blob.size for blob in stream.blobs)
        self._pipeline = Pipeline(f"pull {stream.blobs[0].digest}")
        self._hasher = hashlib.sha256()
        self._raw_bytes = begin.at.raw_bytes
        self._hashes: Inlet[bytes] = self._pipeline.stage(self._hash, _PIECES)
        self._writes: Inlet[tuple[bytes, Checkpoint | None]] = self._pipeline.stage(self._write, _PIECES)
        self._batches: Inlet[bytes] = self._pipeline.stage(
            self._decode, _BATCHES, feeds=(self._hashes.end, self._writes.end), is_first=True
        )
        self._blobs: Inlet[bytes] = self._pipeline.stage(self._check_blobs, _BATCHES, is_first=True)

    async def run(self, pieces: AsyncIterator[bytes], advance: Callable[[int], None]) -> tuple[str, int]:
        """Digest and size of the raw bytes, as declared where they are. `advance` hears of compressed bytes that came.

        `pieces` begin where `Begin.at` says. Cancellation and errors return when the threads have ended.

        Raises:
            Integrity: a digest or size differs, or the compressed data is damaged. OSError: writing failed.
            Whatever `pieces` raises.
        """
        async with self._pipeline:
            batch: list[bytes] = []
            size = 0
            async for piece in pieces:
                if self._pipeline.has_failed():
                    break
                batch.append(piece)
                size += len(piece)
                if size >= BATCH_BYTES:
                    await self._send(b"".join(batch))
                    advance(size)
                    batch, size = [], 0
            if batch and not self._pipeline.has_failed():
                await self._send(b"".join(batch))
                advance(size)
        actual = f"sha256:{self._hasher.hexdigest()}"
        expected = self._stream.raw_digest
        if expected is not None and actual != expected:
            what = f"the content of {self._what} has digest {actual} instead of {expected}"
            raise self._damaged(what, expected, actual)
        return actual, self._raw_bytes

    async def _send(self, batch: bytes) -> None:
        await self._blobs.send(batch)
        await self._batches.send(batch)

    # --- Stages

    def _check_blobs(self, batches: Iterator[bytes]) -> None:
        check = _BlobCheck(self._stream, self._begin.at.compressed_bytes, self._damaged)
        for batch in batches:
            if self._pipeline.has_failed():
                return
            check.update(batch)

    def _decode(self, batches: Iterator[bytes]) -> None:
        try:
            self._decode_all(batches)
        except (DamagedGzip, DamagedFrame) as exc:
            raise self._damaged(f"{self._what}: {exc}") from exc

    def _decode_all(self, batches: Iterator[bytes]) -> None:
        decoder, fed = self._begin.decoder, self._begin.at.compressed_bytes
        marks = _Marks(self._stream.encoding, decoder, self._begin.at)
        if self._begin.pending:
            self._emit(self._begin.pending)
        for batch in batches:
            fed += len(batch)
            if fed > self._blob_bytes:
                raise self._damaged(f"{self._what} is longer than its {self._blob_bytes} bytes")
            for piece in _gathered(decoder.feed(batch)):
                if self._pipeline.has_failed():
                    return
                self._emit(piece)
            self._writes.put((b"", marks.after(fed, self._raw_bytes)))
        if self._pipeline.has_failed():
            return
        if fed != self._blob_bytes:
            raise self._damaged(f"{self._what} ends after {fed} of {self._blob_bytes} bytes")
        decoder.finish()
        size = self._stream.raw_size_bytes
        if size is not None and self._raw_bytes != size:
            raise self._damaged(f"the content of {self._what} has {self._raw_bytes} of {size} bytes")

    def _emit(self, piece: bytes) -> None:
        size = self._stream.raw_size_bytes
        if size is not None and self._raw_bytes + len(piece) > size:
            raise self._damaged(f"the content of {self._what} is longer than {size} bytes")
        self._raw_bytes += len(piece)
        self._hashes.put(piece)
        self._writes.put((piece, None))

    def _hash(self, pieces: Iterator[bytes]) -> None:
        self._hash_what_is_there()
        for piece in pieces:
            if self._pipeline.has_failed():
                return
            self._hasher.update(piece)

    def _hash_what_is_there(self) -> None:
        """What an earlier pull wrote, as it really is on the disk now."""
        start = self._stream.offset
        for extent in extents(self._file.path, start + self._begin.at.raw_bytes, start=start):
            if self._pipeline.has_failed():
                return
            if extent.data is not None:
                self._hasher.update(extent.data)
                continue
            for done in range(0, extent.length, PIECE_BYTES):
                self._hasher.update(_ZEROS[: extent.length - done])

    def _write(self, items: Iterator[tuple[bytes, Checkpoint | None]]) -> None:
        offset = self._stream.offset
        writer = Writer(self._file, offset + self._begin.at.raw_bytes)
        marks: deque[Checkpoint] = deque()
        written = 0
        try:
            for piece, mark in items:
                if self._pipeline.has_failed():
                    return
                writer.write(piece)
                if mark is not None:
                    marks.append(mark)
                self._record(marks, writer.complete_to - offset)
                if writer.written_bytes != written:
                    self._journal.wrote(writer.written_bytes - written)
                    written = writer.written_bytes
            writer.flush()
            self._record(marks, writer.complete_to - offset)
        finally:
            writer.close()

    def _record(self, marks: deque[Checkpoint], reached: int) -> None:
        last = None
        while marks and marks[0].raw_bytes <= reached:
            last = marks.popleft()
        # Where nothing says what the content must be, what comes after a kill could not be verified.
        if last is not None and self._stream.raw_digest is not None:
            self._journal.checkpoint(self._number, last)

    def _damaged(self, what: str, expected: str = "", actual: str = "") -> Integrity:
        return Integrity(
            f"{self._name}: {what}: damaged in the registry or on the way",
            expected=expected,
            actual=actual,
            reason=PULL_REASON,
        )


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces joined: what is handed from thread to thread has its price, whatever its size."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= _GATHERED_BYTES:
            yield b"".join(parts) if len(parts) > 1 else piece
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


class _Marks:
    """The positions that a stream of an encoding can be gone on from."""

    def __init__(self, encoding: Encoding, decoder: Decoder, begin: Checkpoint) -> None:
        self._decoder = decoder if encoding is Encoding.APPLE_LZ4 else None
        self._begin = begin

    def after(self, compressed_bytes: int, raw_bytes: int) -> Checkpoint:
        """After the decoder has taken so much: here, or where its last block began."""
        if isinstance(self._decoder, apple_lz4.Decoder):
            compressed, raw = self._decoder.boundary
            return Checkpoint(self._begin.compressed_bytes + compressed, self._begin.raw_bytes + raw)
        return Checkpoint(compressed_bytes, raw_bytes)


class _BlobCheck:
    """Digests of the blobs of a stream, but not of the one that is entered in its middle."""

    def __init__(self, stream: Stream, start: int, damaged: Callable[[str, str, str], Integrity]) -> None:
        self._blobs = deque(stream.blobs)
        self._damaged = damaged
        while self._blobs and start >= self._blobs[0].size:
            start -= self._blobs.popleft().size
        self._received = start
        self._hasher = hashlib.sha256() if not start else None

    def update(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view and self._blobs:
            blob = self._blobs[0]
            part = view[: blob.size - self._received]
            if self._hasher is not None:
                self._hasher.update(part)
            self._received += len(part)
            view = view[len(part) :]
            if self._received == blob.size:
                self._check()

    def _check(self) -> None:
        blob = self._blobs.popleft()
        actual = f"sha256:{self._hasher.hexdigest()}" if self._hasher is not None else blob.digest
        if actual != blob.digest:
            raise self._damaged(f"blob {blob.digest} has digest {actual}", blob.digest, actual)
        self._received, self._hasher = 0, hashlib.sha256()
