"""Raw files as tart keeps them: a disk in pieces of 512 MiB, each an Apple LZ4 frame of its own, and NVRAM as it is."""

from collections.abc import Sequence

from vzkubelet.images.formats.artifact import Content, Encoding, Stream, Streams
from vzkubelet.images.formats.tart import CHUNK_BYTES
from vzkubelet.images.push.history import BlobRecord
from vzkubelet.images.push.job import Job, Known, Run, records
from vzkubelet.images.push.sources import Source
from vzkubelet.images.push.streams import AppleLz4, Identity
from vzkubelet.model.oci import Descriptor

_OCTETS = "application/octet-stream"
"""The writer of the manifest knows better."""


async def write_disk(job: Job, source: Source, title: str, known: Sequence[Known]) -> Content:
    """Have a disk in the registry in pieces; those of `known` contents, and of earlier pushes, are not sent again.

    Raises:
        What the source raises; Unauthenticated, Forbidden, Unavailable.
    """
    codec = AppleLz4()
    registered = records(known, Encoding.APPLE_LZ4)
    remembered: dict[int, list[BlobRecord]] = {}
    meter = job.meter(f"push {title}", source.size_bytes)
    streams = []
    for start in range(0, source.size_bytes, CHUNK_BYTES):
        run = Run(source, title, start, min(start + CHUNK_BYTES, source.size_bytes))
        if run.size_bytes not in remembered:
            remembered[run.size_bytes] = await job.remembered(codec, run.size_bytes)
        candidates = [*remembered[run.size_bytes], *registered]
        record = await job.recognised(run, candidates, codec, thorough=True)
        if record is None:
            record = await job.stream(run, codec, meter)
            remembered[run.size_bytes].append(record)  # disks have many pieces of zeros
        meter.rewind(run.end)
        streams.append(_stream(record, Encoding.APPLE_LZ4, start))
    raw_digest = source.raw_digest or (streams[0].raw_digest if len(streams) == 1 else None)
    return Content(source.size_bytes, raw_digest, Streams(tuple(streams)))


async def write_nvram(job: Job, source: Source, title: str, known: Sequence[Known]) -> Content:
    """Have auxiliary storage in the registry as it is.

    Raises:
        As `write_disk`.
    """
    run = Run(source, title, 0, source.size_bytes)
    codec = Identity()
    candidates = [*await job.remembered(codec, run.size_bytes), *records(known, Encoding.IDENTITY)]
    record = await job.recognised(run, candidates, codec)
    if record is None:
        record = await job.stream(run, codec, job.meter(f"push {title}", run.size_bytes))
    stream = _stream(record, Encoding.IDENTITY, 0)
    return Content(source.size_bytes, record.raw_digest, Streams((stream,)))


def _stream(record: BlobRecord, encoding: Encoding, offset: int) -> Stream:
    blob = Descriptor(media_type=_OCTETS, digest=record.digest, size=record.size_bytes)
    return Stream((blob,), encoding, offset, record.raw_size_bytes, record.raw_digest)
