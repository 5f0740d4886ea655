"""Which parts of the packs to ask for, so that few requests bring all the chunks that are missing. Pure."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

from vzkubelet.images.formats.chunk_index import ChunkIndex

SPAN_BYTES = 1024 * 1024
"""Longest span: what a thread takes at once, and what is on its way between threads is lost by a kill."""
GAP_BYTES = 256 * 1024
"""What lies between two wanted chunks and is fetched rather than asked around: a request costs as much."""


class Piece(NamedTuple):
    """A chunk in a span."""

    number: int
    offset: int
    length: int


@dataclass(slots=True)
class Span:
    """A range of a pack with wanted chunks in it."""

    pack: int
    start: int
    end: int
    pieces: list[Piece] = field(default_factory=list)

    def add(self, number: int, offset: int, length: int) -> None:
        self.pieces.append(Piece(number, offset - self.start, length))
        self.end = max(self.end, offset + length)


def spans(index: ChunkIndex, numbers: Iterable[int]) -> Iterator[Span]:
    """The spans that hold these chunks, none of them zeros, in the order of the packs."""
    frames = index.frames
    # Frame and number in one integer: half a million of them are sorted, and mostly are already.
    ordered = array("Q", sorted(frames[number] << 32 | number for number in numbers))
    span: Span | None = None
    for key in ordered:
        number = key & 0xFFFFFFFF
        pack, offset, length = index.location(number)
        if (
            span is None
            or pack != span.pack
            or offset > span.end + GAP_BYTES
            or max(span.end, offset + length) - span.start > SPAN_BYTES
        ):
            if span is not None:
                yield span
            span = Span(pack, offset, offset)
        span.add(number, offset, length)
    if span is not None:
        yield span


def stored_bytes(index: ChunkIndex, numbers: Iterable[int]) -> int:
    """What the frames of these chunks have in the packs."""
    wanted = bytearray(len(index.lengths))
    for number in numbers:
        wanted[index.frames[number] - 1] = 1
    return sum(compress(index.lengths, wanted))
