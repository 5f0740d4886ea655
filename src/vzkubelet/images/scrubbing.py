"""Reading what is stored and comparing it with its digests: all of some images at once, or everything little by little.

A scrub goes on after a restart where it was: contents carry in their records when they were verified last, and
``scrub.json`` says how far the one that was being read has been found right.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from vzkubelet.errors import Conflict
from vzkubelet.images.findings import Finding
from vzkubelet.images.formats.tree import DIGEST_BYTES, ChunkList
from vzkubelet.images.pacing import Pacer, Stopped
from vzkubelet.images.records import ContentKind, ContentRecord, StoredContent, read_record, write_record
from vzkubelet.images.store import Store
from vzkubelet.images.verification import Chunker, Damage, chunk_ranges, examine, extents, unreadable

_log = logging.getLogger(__name__)
_SAVE_EVERY_BYTES = 1024 * 1024 * 1024
_GRID_BYTES = 4096
"""Reading begins at multiples of that."""


class ScrubPosition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Up to where the file that was being read has been found right (``scrub.json``)."""

    digest: str
    inode: int
    ctime_ns: int
    started_at: str
    offset: int


class Scrubbing:
    """Methods block, and end with `pacing.Stopped` soon after their pacer was told to stop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._contents = store.contents
        self._position_file = store.root / "scrub.json"

    def verify(self, content: ContentRecord, pacer: Pacer) -> Finding | None:
        """Read a content in full; a damaged one goes to quarantine. None: it is right, or was removed meanwhile.

        Raises: OSError, Stopped.
        """
        path = self._store.content_path(content.digest)
        for _ in range(3):
            try:
                before = path.lstat()
                verdict = self._contents.inspect(content, pacer)
            except FileNotFoundError:
                return None
            if verdict.damage is not None:
                return self._condemn(content.digest, before.st_ino, verdict.damage)
            if self._contents.renew(content.digest, before):
                return None
        raise Conflict(f"image content {content.digest} keeps changing while it is verified: who writes to it?")

    def due(self, older_than_s: float) -> list[ContentRecord]:
        """What was not verified for that long, the oldest verification first; what was never verified before all."""
        found: list[tuple[float, ContentRecord]] = []
        for digest in self._contents.digests():
            size_bytes = self._contents.size_bytes(digest)
            if size_bytes is None:
                continue
            record = self._contents.record(digest)
            verified_at = _seconds(record.verified_at) if record is not None else 0.0
            if time.time() - verified_at >= older_than_s:
                expected = record.size_bytes if record is not None else size_bytes
                found.append((verified_at, ContentRecord(digest, expected)))
        return [content for _, content in sorted(found, key=lambda item: (item[0], item[1].digest))]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Raises Conflict when another process is scrubbing."""
        self._store.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._store.root / "scrub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise Conflict("another process is verifying the stored images in the background") from exc
        try:
            yield
        finally:
            os.close(descriptor)

    def scrub(self, content: ContentRecord, pacer: Pacer) -> Finding | None:
        """As `verify`, going on where an interrupted one was. For the one who is `alone`."""
        record = self._contents.record(content.digest)
        path = self._store.content_path(content.digest)
        try:
            before = path.lstat()
        except FileNotFoundError:
            return None
        chunks = self._chunks(content, record) if record is not None and record.describes(before) else None
        if record is None or chunks is None:
            return self.verify(content, pacer)
        try:
            damage = self._compare(path, record, chunks, pacer)
            if damage is not None and record.kind is ContentKind.RAW:
                # The list of a raw file is ours and may itself be what was damaged: the file's digest decides.
                verdict = examine(path, content.digest, content.size_bytes, chunks, pace=pacer)
                damage = verdict.damage
                if damage is None:
                    self._contents.lists.forget(content.digest, chunks.chunk_bytes)
        except FileNotFoundError:
            return None
        self._position_file.unlink(missing_ok=True)
        if damage is not None:
            return self._condemn(content.digest, before.st_ino, damage)
        self._contents.renew(content.digest, before)
        return None

    def _chunks(self, content: ContentRecord, record: StoredContent) -> ChunkList | None:
        """A list of the content's chunks that reading can begin in the middle of."""
        if record.kind is ContentKind.RAW:
            return self._contents.verified_list(content)
        told = self._contents.lists.of_tree(content.digest)
        return told if told is not None and told.chunk_bytes % _GRID_BYTES == 0 else None

    def _compare(self, path: Path, record: StoredContent, chunks: ChunkList, pacer: Pacer) -> Damage | None:
        position = self._resumed(record)
        number = position.offset // chunks.chunk_bytes
        saved, bad = number, list[int]()
        chunker = Chunker(chunks.chunk_bytes)

        def check(digests: bytes) -> None:
            nonlocal number
            for start in range(0, len(digests), DIGEST_BYTES):
                if digests[start : start + DIGEST_BYTES] != chunks.chunk(number):
                    bad.append(number)
                number += 1

        def save() -> None:
            if not bad and number > saved:
                offset = number * chunks.chunk_bytes
                write_record(self._position_file, msgspec.structs.replace(position, offset=offset))

        start = number * chunks.chunk_bytes
        try:
            for extent in extents(path, record.size_bytes, start=start, pace=pacer):
                chunker.update(extent)
                check(chunker.take())
                if (number - saved) * chunks.chunk_bytes >= _SAVE_EVERY_BYTES:
                    save()
                    saved = number
            check(chunker.finish())
        except Stopped:
            save()
            raise
        except EOFError:
            return Damage(f"it is shorter than {record.size_bytes} bytes")
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            return unreadable(exc)
        if not bad:
            return None
        ranges = chunk_ranges(bad, chunks)
        return Damage(f"{len(bad)} of {chunks.count} chunks are not as they were written", ranges)

    def _resumed(self, record: StoredContent) -> ScrubPosition:
        saved = read_record(self._position_file, ScrubPosition)
        if saved is not None and (saved.digest, saved.inode, saved.ctime_ns, saved.started_at) == (
            record.digest,
            record.inode,
            record.ctime_ns,
            record.verified_at,
        ):
            return saved
        return ScrubPosition(
            digest=record.digest,
            inode=record.inode,
            ctime_ns=record.ctime_ns,
            started_at=record.verified_at,
            offset=0,
        )

    def _condemn(self, digest: str, inode: int, damage: Damage) -> Finding:
        moved_to = self._contents.quarantine(digest, inode, damage)
        return Finding(digest, damage.reason, damage.ranges, moved_to)


def _seconds(rfc3339: str) -> float:
    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except ValueError:
        return 0.0
