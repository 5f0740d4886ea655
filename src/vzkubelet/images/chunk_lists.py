"""Lists of contents' chunks beside the contents: what a tree's digest is of, and what was computed of others."""

import logging
from pathlib import Path

from vzkubelet.files import write_atomic
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.records import ContentRecord

_log = logging.getLogger(__name__)
_HEX_LENGTH = 64
LIST_BYTES = 256 * 1024
"""Size of the chunks of the lists that are made in passing when a raw file is verified. They tell later where a file is
damaged, and what an update of it need not fetch: it is the size in our own format."""


class ChunkLists:
    """``<hex>.chunks`` and ``<hex>.<n>.chunks`` in the directory of the contents."""

    def __init__(self, directory: Path) -> None:
        """Touches nothing."""
        self._directory = directory

    def tree_path(self, digest: str) -> Path:
        return self._directory / f"{hex_of(digest)}.chunks"

    def of_tree(self, digest: str) -> ChunkList | None:
        """The list that `digest` is the digest of; None when there is none, or it was damaged."""
        chunks = _read(self.tree_path(digest))
        return chunks if chunks is not None and chunks.digest() == digest else None

    def kept(self, content: ContentRecord, chunk_bytes: int) -> ChunkList | None:
        """The list of chunks of that size, if there is one."""
        for path in (self.tree_path(content.digest), self.path(content.digest, chunk_bytes)):
            chunks = _read(path)
            if chunks is not None and (chunks.size_bytes, chunks.chunk_bytes) == (content.size_bytes, chunk_bytes):
                return chunks
        return None

    def keep(self, digest: str, chunks: ChunkList) -> None:
        """Raises: OSError."""
        is_tree = chunks.digest() == digest
        path = self.tree_path(digest) if is_tree else self.path(digest, chunks.chunk_bytes)
        write_atomic(path, chunks.to_bytes(), 0o444)

    def forget(self, digest: str, chunk_bytes: int) -> None:
        """Remove a list that turned out to be wrong."""
        self.path(digest, chunk_bytes).unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Remove all lists of a content."""
        for path in self._directory.glob(f"{hex_of(digest)}.*chunks"):
            path.unlink(missing_ok=True)

    def path(self, digest: str, chunk_bytes: int) -> Path:
        """Of the list of a raw file."""
        return self._directory / f"{hex_of(digest)}.{chunk_bytes}.chunks"


def hex_of(digest: str) -> str:
    return digest.removeprefix("sha256:")


def is_hex(name: str) -> bool:
    """Whether a file's name is that of a content."""
    return len(name) == _HEX_LENGTH and not name.strip("0123456789abcdef")


def _read(path: Path) -> ChunkList | None:
    try:
        return ChunkList.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        _log.warning("ignoring %s: %s", path, exc)
        return None
