"""A raw file as agoda keeps it: one gzip blob."""

from collections.abc import Sequence

from vzkubelet.images.formats.artifact import Content, Encoding, single
from vzkubelet.images.push.job import Job, Known, Run, records
from vzkubelet.images.push.sources import Source
from vzkubelet.images.push.streams import Gzip
from vzkubelet.model.oci import Descriptor

_OCTETS = "application/octet-stream"
"""The writer of the manifest knows better."""


async def write_content(job: Job, source: Source, title: str, known: Sequence[Known], level: int | None) -> Content:
    """Have `source` in the registry as one gzip blob; `known` are older contents.

    Raises:
        What the source raises; Unauthenticated, Forbidden, Unavailable.
    """
    codec = Gzip(level)
    run = Run(source, title, 0, source.size_bytes)
    candidates = await job.remembered(codec, run.size_bytes)
    if level is None:  # else another one is wanted
        candidates += records(known, Encoding.GZIP)
    record = await job.recognised(run, candidates, codec)
    if record is None:
        record = await job.stream(run, codec, job.meter(f"push {title}", run.size_bytes))
    blob = Descriptor(media_type=_OCTETS, digest=record.digest, size=record.size_bytes)
    return single(blob, Encoding.GZIP, record.raw_size_bytes, record.raw_digest)
