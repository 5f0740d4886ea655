"""One layer from the network to a sparse file in one pass, with two threads.

event loop: chunks -> batches | thread 1: sha256 of the blob, inflate | thread 2: sha256 of the content, sparse write.

Queues between the stages are bounded, so memory is too, whatever the layer's size. Both digests and sizes are verified
before `receive` returns; what was written before is of no value until then.
"""

import asyncio
import hashlib
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vzkubelet import files
from vzkubelet.aio import BlockingPool, spawn, uninterrupted
from vzkubelet.errors import Integrity
from vzkubelet.images.formats.artifact import PULL_REASON, Content, Encoding, Streams, invalid_image
from vzkubelet.images.gzip_stream import DamagedGzip, Inflater
from vzkubelet.images.sparse import BLOCK_BYTES, write_block
from vzkubelet.model.oci import Descriptor

_BATCH_BYTES = 1024 * 1024
_BATCHES = 8
_BLOCKS = 16
"""Queue lengths, measured: more does not help, less lets one stage wait for the other."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob in the registry and the raw content it becomes."""

    blob: Descriptor
    encoding: Encoding
    raw_digest: str
    raw_size_bytes: int

    @classmethod
    def of(cls, content: Content) -> "Layer":
        match content.layout:
            case Streams((stream,)) if stream.raw_digest is not None and stream.raw_size_bytes is not None:
                (blob,) = stream.blobs
                return cls(blob, stream.encoding, stream.raw_digest, stream.raw_size_bytes)
            case _:
                raise invalid_image(f"content {content.key} is not one blob")


async def receive(
    chunks: AsyncIterator[bytes], layer: Layer, path: Path, name: str, advance: Callable[[int], None]
) -> None:
    """Write the content of `layer` to the new file `path`, synced to disk. `advance` hears of compressed bytes.

    Cancellation and errors return when both threads have ended; the file is left for the caller to remove.

    Raises:
        Integrity: a digest or size differs, or the compressed data is damaged. OSError: writing failed.
        Whatever `chunks` raises.
    """
    await _Receiver(layer, path, name).run(chunks, advance)


class _Receiver:
    def __init__(self, layer: Layer, path: Path, name: str) -> None:
        self._layer = layer
        self._path = path
        self._name = name
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._credits = asyncio.Semaphore(_BATCHES)
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_BLOCKS)
        self._failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self, chunks: AsyncIterator[bytes], advance: Callable[[int], None]) -> None:
        pool = BlockingPool("pull", 2)
        stages = [
            spawn(pool.run(stage), name=f"{stage.__name__} {self._layer.raw_digest}")
            for stage in (self._decode_stage, self._store_stage)
        ]
        try:
            await self._feed(chunks, advance)
        except BaseException as exc:
            self._fail(exc)
            raise
        finally:
            self._batches.put(None)
            # The threads still use what the caller may remove afterwards.
            await uninterrupted(_all(stages), name=f"end of pull {self._layer.raw_digest}")
            pool.close()
        if self._failure is not None:
            raise self._failure

    async def _feed(self, chunks: AsyncIterator[bytes], advance: Callable[[int], None]) -> None:
        """Chunks as batches to the first stage; stops early once a stage has failed."""
        parts: list[bytes] = []
        size = 0
        async for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if self._failure is not None:
                return
            if size >= _BATCH_BYTES:
                await self._put(b"".join(parts))
                advance(size)
                parts, size = [], 0
        if parts:
            await self._put(b"".join(parts))
            advance(size)

    async def _put(self, batch: bytes) -> None:
        await self._credits.acquire()
        self._batches.put(batch)

    def _take(self) -> bytes | None:
        batch = self._batches.get()
        if batch is not None:
            self._loop.call_soon_threadsafe(self._credits.release)
        return batch

    def _fail(self, exc: BaseException) -> None:
        """The first failure is the cause; later ones are its consequences."""
        if self._failure is None:
            self._failure = exc

    # Each stage reads its queue to the end whatever happens, so that nobody ever waits for it.

    def _decode_stage(self) -> None:
        batches = iter(self._take, None)
        try:
            self._decode(batches)
        except DamagedGzip as exc:
            damaged = self._damaged(f"blob {self._layer.blob.digest}: {exc}")
            damaged.__cause__ = exc
            self._fail(damaged)
        except BaseException as exc:  # noqa: BLE001 - carried to the event loop
            self._fail(exc)
        for _ in batches:
            pass
        self._blocks.put(None)

    def _store_stage(self) -> None:
        blocks = iter(self._blocks.get, None)
        try:
            self._store(blocks)
        except BaseException as exc:  # noqa: BLE001 - carried to the event loop
            self._fail(exc)
        for _ in blocks:
            pass

    def _decode(self, batches: Iterator[bytes]) -> None:
        """Verify the blob and hand its content on in whole blocks, only the last one shorter."""
        blob = self._layer.blob
        hasher, received = hashlib.sha256(), 0
        decoder = Inflater(BLOCK_BYTES) if self._layer.encoding is Encoding.GZIP else _Copy(BLOCK_BYTES)
        parts: list[bytes] = []
        for batch in batches:
            hasher.update(batch)
            received += len(batch)
            if received > blob.size:
                raise self._damaged(f"blob {blob.digest} is longer than its {blob.size} bytes")
            for piece in decoder.feed(batch):
                if self._failure is not None:
                    return
                parts.append(piece)
                decoder.piece_bytes -= len(piece)
                if decoder.piece_bytes == 0:
                    self._blocks.put(parts[0] if len(parts) == 1 else b"".join(parts))
                    parts, decoder.piece_bytes = [], BLOCK_BYTES
        if self._failure is not None:
            return
        if received != blob.size:
            raise self._damaged(f"blob {blob.digest} ends after {received} of {blob.size} bytes")
        actual = f"sha256:{hasher.hexdigest()}"
        if actual != blob.digest:
            raise self._damaged(f"blob {blob.digest} has digest {actual}", blob.digest, actual)
        decoder.finish()
        if parts:
            self._blocks.put(b"".join(parts))

    def _store(self, blocks: Iterator[bytes]) -> None:
        """Write the content and verify it."""
        size = self._layer.raw_size_bytes
        hasher, offset = hashlib.sha256(), 0
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            for block in blocks:
                if self._failure is not None:
                    return
                if offset + len(block) > size:
                    raise self._damaged(f"the content of blob {self._layer.blob.digest} is longer than {size} bytes")
                hasher.update(block)
                write_block(descriptor, block, offset)
                offset += len(block)
            if self._failure is not None:
                return
            if offset != size:
                raise self._damaged(f"the content of blob {self._layer.blob.digest} has {offset} of {size} bytes")
            actual = f"sha256:{hasher.hexdigest()}"
            if actual != self._layer.raw_digest:
                what = f"the content of blob {self._layer.blob.digest} has digest {actual}"
                raise self._damaged(f"{what} instead of {self._layer.raw_digest}", self._layer.raw_digest, actual)
            files.sync(descriptor)
        finally:
            os.close(descriptor)

    def _damaged(self, what: str, expected: str = "", actual: str = "") -> Integrity:
        return Integrity(
            f"{self._name}: {what}: damaged in the registry or on the way",
            expected=expected,
            actual=actual,
            reason=PULL_REASON,
        )


class _Copy:
    """The decoder of a blob that is not compressed."""

    def __init__(self, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(data):
            piece = data[position : position + self.piece_bytes]
            position += len(piece)
            yield piece

    def finish(self) -> None:
        """Any end is a good one."""


async def _all(stages: Iterable[asyncio.Task[None]]) -> None:
    await asyncio.gather(*stages)
