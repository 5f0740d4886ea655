"""Where a stream is gone on with after its puller was killed."""

import logging

from vzkubelet.images.formats.artifact import Encoding, Stream
from vzkubelet.images.pull import deflate_resume
from vzkubelet.images.pull.blocking import to_end
from vzkubelet.images.pull.ledger import Checkpoint
from vzkubelet.images.pull.source import Source
from vzkubelet.images.pull.stream import PIECE_BYTES, Begin, Copying, decoder
from vzkubelet.images.pull.writer import RawFile
from vzkubelet.wire import apple_lz4

_log = logging.getLogger(__name__)
_LZ4_HISTORY_BYTES = 64 * 1024
_WORTHWHILE_BYTES = 256 * 1024
"""Less than that is fetched again sooner than anything is looked for."""
START = Checkpoint(0, 0)


def anew(stream: Stream) -> Begin:
    return Begin(START, decoder(stream.encoding))


async def begin(stream: Stream, at: Checkpoint, file: RawFile, source: Source) -> Begin:
    """The stream from `at` on, or from its start where that cannot be done.

    Raises what `Source.fetch` does, OSError.
    """
    if at.compressed_bytes < _WORTHWHILE_BYTES or stream.raw_digest is None:
        return anew(stream)
    match stream.encoding:
        case Encoding.IDENTITY:
            return Begin(at, Copying(PIECE_BYTES))
        case Encoding.APPLE_LZ4:
            position = stream.offset + at.raw_bytes
            start = max(stream.offset, position - _LZ4_HISTORY_BYTES)
            history = await to_end(file.read, start, position)
            return Begin(at, apple_lz4.Decoder(PIECE_BYTES, history))
        case Encoding.GZIP:
            return await _inside_gzip(stream, at, file, source)


async def _inside_gzip(stream: Stream, at: Checkpoint, file: RawFile, source: Source) -> Begin:
    start = max(0, at.compressed_bytes - deflate_resume.TAIL_BYTES)
    tail = await source.fetch(stream.blobs, start, at.compressed_bytes)

    def read(first: int, last: int) -> bytes:
        return file.read(stream.offset + first, stream.offset + last)

    resumed = await to_end(deflate_resume.resume, tail, at.raw_bytes, read, PIECE_BYTES)
    if resumed is None:
        _log.info("%s: no place to go on at was found before byte %d of %s", source.name, *_where(stream, at))
        return anew(stream)
    _log.info("%s: going on after byte %d of %s", source.name, *_where(stream, at))
    return Begin(Checkpoint(at.compressed_bytes, resumed.offset), resumed.inflater, resumed.pending)


def _where(stream: Stream, at: Checkpoint) -> tuple[int, str]:
    return at.compressed_bytes, stream.blobs[0].digest
