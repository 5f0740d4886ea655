"""What an older version of a file, which is in the store, can give to a new one: equal chunks at equal places.

Disks of virtual machines keep their blocks where they are, so comparing chunk by chunk finds nearly all that did not
change. Where the file system can share blocks the new file begins as a clone of the old one, and what differs is
punched out of it. Elsewhere the equal chunks are copied, and hashed on the way: what has rotted is fetched.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vzkubelet.images.formats.chunk_index import zero_digest
from vzkubelet.images.formats.tree import DIGEST_BYTES, ChunkList
from vzkubelet.images.pull.blocking import Stop
from vzkubelet.images.pull.writer import RawFile, Writer
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.verification import Chunker, extents

Runs = list[tuple[int, int]]
"""First chunk and number of chunks, ascending."""
_COMPARED_CHUNKS = 1024
_COPIED_BYTES = 32 * 1024 * 1024
"""One job of copying."""
_COPIERS = max(2, min(4, os.cpu_count() or 2))
_ZERO_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Base:
    """A content of the store whose chunks are known."""

    content: ContentRecord
    path: Path
    chunks: ChunkList

    def take_over(self, target: ChunkList, file: RawFile, stop: Stop) -> Runs:
        """Make `file` (new, of the right size, all zeros) have what it has in common with this one; the rest is zeros.

        Raises: OSError (FileNotFoundError: the content was removed meanwhile), Stopped.
        """
        runs = matching_runs(self.chunks, target)
        if not runs:
            return []
        if file.clone(self.path):
            file.resize(target.size_bytes)
            for first, count in gaps(runs, target.count):
                file.clear(first * target.chunk_bytes, (first + count) * target.chunk_bytes)
            return runs
        return self._copy(runs, target, file, stop)

    def _copy(self, runs: Runs, target: ChunkList, file: RawFile, stop: Stop) -> Runs:
        step = max(1, _COPIED_BYTES // target.chunk_bytes)
        jobs = [
            (start, min(step, first + count - start))
            for first, count in runs
            for start in range(first, first + count, step)
        ]
        with ThreadPoolExecutor(_COPIERS, thread_name_prefix="pull-copy") as pool:
            copied = pool.map(lambda job: self._copy_run(job, target, file, stop), jobs)
            return joined(chain.from_iterable(copied))

    def _copy_run(self, job: tuple[int, int], target: ChunkList, file: RawFile, stop: Stop) -> Runs:
        """The chunks of a run that are as they should be, copied; zeros are there already."""
        first, count = job
        start = first * target.chunk_bytes
        end = min(start + count * target.chunk_bytes, target.size_bytes)
        chunker = Chunker(target.chunk_bytes)
        writer = Writer(file, start)
        try:
            for extent in extents(self.path, end, start=start):
                stop.check()
                chunker.update(extent)
                if extent.data is not None:
                    writer.write(bytes(extent.data))
                else:
                    writer.seek(extent.offset + extent.length)
            writer.flush()
        except EOFError as exc:
            raise FileNotFoundError(f"{self.path} has become shorter") from exc
        finally:
            writer.close()
        found = chunker.finish()
        expected = target.digests[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES]
        if found == expected:
            return [(first, count)]
        right = [
            number
            for number in range(count)
            if found[number * DIGEST_BYTES :][:DIGEST_BYTES] == expected[number * DIGEST_BYTES :][:DIGEST_BYTES]
        ]
        return [(first + number, 1) for number in right]


def matching_runs(base: ChunkList, target: ChunkList) -> Runs:
    """The chunks that both have at the same place. Lists of another size of chunks have none."""
    if base.chunk_bytes != target.chunk_bytes:
        return []
    shared = min(base.count, target.count)
    runs: Runs = []
    for start in range(0, shared, _COMPARED_CHUNKS):
        end = min(start + _COMPARED_CHUNKS, shared)
        if (
            base.digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
            == target.digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
        ):
            runs.append((start, end - start))
        else:
            runs += [(number, 1) for number in range(start, end) if base.chunk(number) == target.chunk(number)]
    last = shared - 1
    if runs and runs[-1][0] + runs[-1][1] == shared and base.length(last) != target.length(last):
        runs[-1] = (runs[-1][0], runs[-1][1] - 1)  # equal digests of unequal lengths do not exist; nobody relies on it
    return [run for run in joined(runs) if run[1]]


def data_bytes(runs: Runs, target: ChunkList) -> int:
    """Bytes of the chunks of these runs that are not zeros."""
    zeros = zero_digest(target.chunk_bytes) if target.chunk_bytes <= _ZERO_LIMIT_BYTES else None
    numbers = chain.from_iterable(range(first, first + count) for first, count in runs)
    return sum(target.length(number) for number in numbers if target.chunk(number) != zeros)


def joined(runs: "Iterator[tuple[int, int]] | Runs") -> Runs:
    """Ascending runs with neighbours made one."""
    result: Runs = []
    for first, count in runs:
        if result and sum(result[-1]) == first:
            result[-1] = (result[-1][0], result[-1][1] + count)
        else:
            result.append((first, count))
    return result


def gaps(runs: Runs, count: int) -> Iterator[tuple[int, int]]:
    """What lies between ascending runs, up to `count`."""
    position = 0
    for first, length in runs:
        if first > position:
            yield position, first - position
        position = first + length
    if position < count:
        yield position, count - position
