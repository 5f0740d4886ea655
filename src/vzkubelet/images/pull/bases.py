"""Which content of the store has most in common with one that is going to be pulled."""

import logging
from collections.abc import Iterator

from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.pull.blocking import Stop
from vzkubelet.images.pull.delta import Base, data_bytes, matching_runs
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.store import Store

_log = logging.getLogger(__name__)
_OTHERS = 16
"""Lists of chunks of other repositories that are compared: each is read from the disk."""
_WORTHWHILE = 16
"""A base must have at least that part (1/n) of the data in common."""
_SIMILAR = 4
"""A version of a disk is not more than that many times as large as another one."""


def find(store: Store, repository: str, target: ChunkList, stop: Stop) -> Base | None:
    """The best base for `target`: of the same repository, or of another one whose chunks are known.

    Blocks: where the newest content of the repository came in another format it is read and hashed, once.
    Raises: OSError, Stopped.
    """
    best: Base | None = None
    best_bytes = 0
    for content, chunks in _candidates(store, repository, target, stop):
        common_bytes = data_bytes(matching_runs(chunks, target), target)
        if common_bytes > best_bytes:
            best, best_bytes = Base(content, store.content_path(content.digest), chunks), common_bytes
    if best is None or best_bytes * _WORTHWHILE < data_bytes([(0, target.count)], target):
        return None
    _log.info("%d bytes of the new version are in %s", best_bytes, best.path.name)
    return best


def _candidates(
    store: Store, repository: str, target: ChunkList, stop: Stop
) -> Iterator[tuple[ContentRecord, ChunkList]]:
    seen: set[str] = set()
    may_read = True
    for content in _of_repository(store, repository):
        if content.digest in seen or not _is_similar(content, target):
            continue
        seen.add(content.digest)
        chunks = store.contents.lists.kept(content, target.chunk_bytes)
        if chunks is None and may_read:
            may_read = False
            chunks = store.contents.chunk_list(content, target.chunk_bytes, lambda *_: stop.check())
        if chunks is not None and store.has_content(content):  # which keeps it from being removed
            yield content, chunks
    others = 0
    for digest in store.contents.digests():
        size_bytes = store.contents.size_bytes(digest)
        if digest in seen or size_bytes is None or others == _OTHERS:
            continue
        content = ContentRecord(digest, size_bytes)
        chunks = store.contents.lists.kept(content, target.chunk_bytes) if _is_similar(content, target) else None
        if chunks is not None and store.has_content(content):
            others += 1
            yield content, chunks


def _of_repository(store: Store, repository: str) -> Iterator[ContentRecord]:
    """The newest first."""
    records = [record for record in store.references() if record.repository == repository]
    for record in sorted(records, key=lambda record: record.pulled_at, reverse=True):
        image = store.image_record(record.manifest_digest)
        if image is not None:
            yield from image.contents


def _is_similar(content: ContentRecord, target: ChunkList) -> bool:
    small, large = sorted((content.size_bytes, target.size_bytes))
    return small * _SIMILAR >= large
