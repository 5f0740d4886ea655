"""The disks of the bench: half holes, a quarter compressible, a quarter random, the same in every run.

Compressible data is prose of made-up words: deflate brings it to about a third, as it does with what macOS installs.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

BLOCK_BYTES = 64 * 1024
EXTENT_BLOCKS = 64
"""4 MiB of one kind lie together."""
RUN_BLOCKS = 16
"""What an update changes lies together, as files do."""
_POOL_BLOCKS = 128
"""Different blocks of prose; they repeat too far apart for any compressor's window here, and never in one order."""
_COPY_BYTES = 4 * 1024 * 1024
_ALPHABET = "etaoinshrdlucmfwypvbgkjqxz"


class Kind(Enum):
    HOLE = "hole"
    PROSE = "prose"
    NOISE = "noise"


_SHARES = (Kind.HOLE, Kind.HOLE, Kind.PROSE, Kind.NOISE)


@dataclass(frozen=True, slots=True)
class Layout:
    """The kind of each extent of a disk."""

    extents: tuple[Kind, ...]

    @classmethod
    def of(cls, size_bytes: int, seed: int) -> "Layout":
        """Raises ValueError: a size that the shares do not divide."""
        count, rest = divmod(size_bytes, EXTENT_BLOCKS * BLOCK_BYTES)
        if rest or count % len(_SHARES):
            raise ValueError(f"{size_bytes} bytes are not a multiple of {len(_SHARES) * EXTENT_BLOCKS * BLOCK_BYTES}")
        extents = list(_SHARES) * (count // len(_SHARES))
        random.Random(seed).shuffle(extents)
        return cls(tuple(extents))

    @property
    def size_bytes(self) -> int:
        return len(self.extents) * EXTENT_BLOCKS * BLOCK_BYTES

    @property
    def data_blocks(self) -> int:
        return EXTENT_BLOCKS * sum(kind is not Kind.HOLE for kind in self.extents)

    def changed_runs(self, share: float, seed: int) -> list[int]:
        """First blocks of runs that together hold `share` of all blocks with data; each run lies in one extent."""
        places = [
            extent * EXTENT_BLOCKS + run * RUN_BLOCKS
            for extent, kind in enumerate(self.extents)
            if kind is not Kind.HOLE
            for run in range(EXTENT_BLOCKS // RUN_BLOCKS - 1)
        ]
        choose = random.Random(seed)
        runs = round(self.data_blocks * share / RUN_BLOCKS)
        # Not on a boundary of larger chunks: files are not either.
        return sorted(place + choose.randrange(RUN_BLOCKS) for place in _apart(choose, places, runs))


def _apart(choose: random.Random, places: list[int], count: int) -> list[int]:
    """Places whose runs do not overlap even when moved: every second place of an extent at most."""
    return choose.sample([place for place in places if place // RUN_BLOCKS % 2 == 0], count)


class Contents:
    """Endless data of both kinds, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        words = ["".join(self._random.choices(_ALPHABET, k=self._random.randint(2, 11))) for _ in range(3000)]
        weights = [1 / (rank + 10) for rank in range(len(words))]
        self._pool = [self._prose(words, weights) for _ in range(_POOL_BLOCKS)]

    def blocks(self, kind: Kind, count: int) -> bytes:
        match kind:
            case Kind.HOLE:
                return bytes(count * BLOCK_BYTES)
            case Kind.PROSE:
                return b"".join(self._random.choices(self._pool, k=count))
            case Kind.NOISE:
                return self._random.randbytes(count * BLOCK_BYTES)

    def _prose(self, words: list[str], weights: list[float]) -> bytes:
        text = " ".join(self._random.choices(words, weights, k=BLOCK_BYTES // 7))
        return text.encode()[:BLOCK_BYTES].ljust(BLOCK_BYTES, b"\n")


def write(path: Path, layout: Layout, seed: int) -> None:
    """A new disk."""
    contents = Contents(seed)
    with path.open("xb", buffering=0) as file:
        file.truncate(layout.size_bytes)
        for index, kind in enumerate(layout.extents):
            if kind is not Kind.HOLE:
                os.pwrite(file.fileno(), contents.blocks(kind, EXTENT_BLOCKS), index * EXTENT_BLOCKS * BLOCK_BYTES)


def write_update(path: Path, before: Path, layout: Layout, share: float, seed: int) -> None:
    """A new disk that differs from `before` in `share` of the blocks with data, each with new data of its kind."""
    _copy_sparse(before, path)
    contents = Contents(seed)
    with path.open("r+b", buffering=0) as file:
        for block in layout.changed_runs(share, seed):
            kind = layout.extents[block // EXTENT_BLOCKS]
            os.pwrite(file.fileno(), contents.blocks(kind, RUN_BLOCKS), block * BLOCK_BYTES)


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        writer.truncate(source.stat().st_size)
        for start, end in data_ranges(reader.fileno()):
            for position in range(start, end, _COPY_BYTES):
                part = os.pread(reader.fileno(), min(_COPY_BYTES, end - position), position)
                os.pwrite(writer.fileno(), part, position)


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """Start and end of what is no hole."""
    position = 0
    while True:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data behind
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position
