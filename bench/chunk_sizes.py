"""What the size of a chunk costs: ``python -m bench.chunk_sizes [--size-mib 1024] [--level 3] [FILE]``.

For each size: stored bytes, the index, what an update of 2 % of the blocks moves, and the speed of one thread each way.
Without FILE the disk of the image benchmark is taken; the figures are in docs/image-format.md.
"""

import argparse
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench.images.disk import Layout, write, write_update

KIB, MIB = 1024, 1024 * 1024
SIZES = (64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 1024 * KIB, 4096 * KIB)
_CHANGED = 0.02
_SEED = 7


@dataclass(frozen=True, slots=True)
class Stored:
    """A disk in chunks of one size: digest to stored length, and the index that goes with it."""

    lengths: dict[bytes, int]
    index_bytes: int
    compress_s: float
    decompress_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--level", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        before, after = Path(directory, "before"), Path(directory, "after")
        layout = Layout.of(options.size_mib * MIB, _SEED)
        if options.file is None:
            write(before, layout, _SEED)
            write_update(after, before, layout, _CHANGED, _SEED + 1)
        else:
            before, after = options.file, options.file
        print(f"{before.stat().st_size // MIB} MiB, zstd level {options.level}, one thread")
        print("chunk KiB   stored MiB   index KiB   update % of stored   compress MB/s   decompress MB/s")
        for chunk_bytes in SIZES:
            _report(chunk_bytes, before, after, options.level)


def _report(chunk_bytes: int, before: Path, after: Path, level: int) -> None:
    old = _store(before, chunk_bytes, level)
    new = _store(after, chunk_bytes, level) if after != before else old
    stored = sum(old.lengths.values())
    moved = sum(length for digest, length in new.lengths.items() if digest not in old.lengths) + new.index_bytes
    raw = len(old.lengths) * chunk_bytes
    print(
        f"{chunk_bytes // KIB:9}   {stored / MIB:10.1f}   {old.index_bytes / KIB:9.1f}   {100 * moved / stored:18.2f}"
        f"   {raw / 1e6 / old.compress_s:13.0f}   {raw / 1e6 / old.decompress_s:15.0f}"
    )


def _store(path: Path, chunk_bytes: int, level: int) -> Stored:
    compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    lengths: dict[bytes, int] = {}
    count, compress_s, decompress_s = 0, 0.0, 0.0
    with path.open("rb") as disk:
        while chunk := disk.read(chunk_bytes):
            count += 1
            digest = hashlib.sha256(chunk).digest()
            if digest in lengths or not chunk.strip(b"\0"):
                continue
            began = time.perf_counter()
            frame = compressor.compress(chunk)
            between = time.perf_counter()
            decompressor.decompress(frame)
            decompress_s += time.perf_counter() - between
            compress_s += between - began
            lengths[digest] = min(len(frame), len(chunk))
    return Stored(lengths, 64 + 36 * len(lengths) + 4 * count, compress_s, decompress_s)


if __name__ == "__main__":
    main()
