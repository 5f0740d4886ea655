"""Files written from beginning to end: past the page cache, zeros left as holes, hashed in passing."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vzkubelet.images.pull.writer import RawFile, Writer
from vzkubelet.images.sparse import ZEROS


class Copy:
    """A new file on its way. One thread hashes while the caller's writes."""

    def __init__(self, writer: Writer, pool: ThreadPoolExecutor) -> None:
        self._writer = writer
        self._pool = pool
        self._hasher = hashlib.sha256()

    @property
    def position(self) -> int:
        return self._writer.position

    def write(self, data: bytes) -> None:
        """The next bytes. Raises: OSError."""
        hashed = self._pool.submit(self._hasher.update, data)
        self._writer.write(data)
        hashed.result()

    def skip_to(self, position: int) -> None:
        """Zeros up to there."""
        gap = position - self.position
        while gap:
            length = min(gap, len(ZEROS))
            self._hasher.update(ZEROS if length == len(ZEROS) else ZEROS[:length])
            gap -= length
        if position > self.position:
            self._writer.seek(position)

    @property
    def digest(self) -> str:
        """``sha256:…`` of all that was written."""
        return f"sha256:{self._hasher.hexdigest()}"


@contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[Copy]:
    """A file of that size, which is synced at the end. Raises: OSError."""
    file = RawFile(path)
    try:
        file.resize(size_bytes)
        writer = Writer(file)
        try:
            with ThreadPoolExecutor(1, "hash") as pool:
                yield Copy(writer, pool)
            writer.flush()
        finally:
            writer.close()
        file.sync()
    finally:
        file.close()
