"""A disk that is cut into parts of one size, each compressed on its own. Pure."""

from collections.abc import Sequence

from vzkubelet.images.formats import fields
from vzkubelet.images.formats.artifact import Content, Stream, Streams, invalid_image


def disk(streams: Sequence[Stream], disk_bytes: int | None, raw_digest: str | None, name: str) -> Content:
    """The disk that the streams are, in order, each with its size; `disk_bytes` and `raw_digest` as the manifest says.

    Raises:
        InvalidInput: gaps, parts of different sizes, or together another size than the disk's.
    """
    sizes = [stream.raw_size_bytes or 0 for stream in streams]
    for stream, offset in zip(streams, range(0, sizes[0] * len(sizes), sizes[0] or 1), strict=False):
        if stream.offset != offset:
            raise invalid_image(f"{name}: a part of the disk is at byte {stream.offset} instead of {offset}")
    if not 0 < sizes[-1] <= sizes[0] or any(size != sizes[0] for size in sizes[:-1]):
        raise invalid_image(f"{name}: the disk's parts have different sizes")
    if sum(sizes) > fields.SIZE_LIMIT_BYTES or disk_bytes not in (None, sum(sizes)):
        raise invalid_image(f"{name}: the disk has {disk_bytes} bytes, its parts have {sum(sizes)} together")
    if len(streams) == 1:
        raw_digest = streams[0].raw_digest  # verified, other than the manifest's word
    return Content(sum(sizes), raw_digest, Streams(tuple(streams)))
