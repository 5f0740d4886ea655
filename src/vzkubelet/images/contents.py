"""The contents of the store: raw files named by their digests, each with a record of what it was when it was verified.

::

    content/sha256/<hex>             raw disk or auxiliary storage, mode 0444, holes kept
    content/sha256/<hex>.json        records.StoredContent, written after the last change of the file
    content/sha256/<hex>.chunks      of a tree: the formats.tree.ChunkList that its digest is of
    content/sha256/<hex>.<n>.chunks  a list of chunks of n bytes that was verified or computed in passing
    content/sha256/<hex>.users/      symbolic links to what refers to the file by its name
    keys/<hex>                       symbolic link to the content that came under a key that is not its digest
    quarantine/<hex>.<time>          a damaged content; beside it .json: records.Quarantined

A file that is not as its record says is not trusted and not lost: it is verified in full, and then has a new record
or goes to quarantine. A content that overlays refer to stays under its name even there, as a symbolic link to the
damaged file, until it has been pulled again and takes its name back: a machine that starts meanwhile finds what it had.

Locks (flock): the content's own file, exclusive, while it is verified or before it has a record; its users' directory,
shared by who becomes a user, exclusive by who removes.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from pathlib import Path

from vzkubelet.errors import Unavailable
from vzkubelet.files import STAGING_PREFIX, sync, sync_directory
from vzkubelet.images.chunk_lists import LIST_BYTES, ChunkLists, hex_of, is_hex
from vzkubelet.images.content_users import Users, entries, remove_old
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.quarantine import Quarantine
from vzkubelet.images.records import (
    ContentKind,
    ContentRecord,
    StoredContent,
    read_record,
    rfc3339,
    write_record,
)
from vzkubelet.images.staging import Staging, allocated_bytes
from vzkubelet.images.verification import Damage, Pace, Verdict, any_pace, examine, list_chunks

_log = logging.getLogger(__name__)
_ATTEMPTS = 3


class Contents:
    """Methods block: they are for threads."""

    def __init__(self, root: Path) -> None:
        """Touches nothing."""
        self.directory = root / "content" / "sha256"
        self.lists = ChunkLists(self.directory)
        self.quarantine_directory = root / "quarantine"
        self._quarantine = Quarantine(self.quarantine_directory)
        self._keys = root / "keys"
        self._stopping = threading.Event()

    def path(self, digest: str) -> Path:
        return self.directory / hex_of(digest)

    def chunks_path(self, digest: str) -> Path:
        return self.lists.tree_path(digest)

    def users_path(self, digest: str) -> Path:
        return self.directory / f"{hex_of(digest)}.users"

    def record_path(self, digest: str) -> Path:
        return self.directory / f"{hex_of(digest)}.json"

    def digests(self) -> list[str]:
        """What is here, verified or not."""
        return [f"sha256:{path.name}" for path in entries(self.directory) if is_hex(path.name)]

    # --- Presence

    def has(self, content: ContentRecord, *, verify: bool = True, pace: Pace | None = None) -> bool:
        """Whether a content is here and is what was verified: one lstat and one small file read.

        A file that differs from its record, or has none, is verified in full, unless `verify` is False: then it
        counts. A damaged one goes to quarantine. Raises: Unavailable: `stop` was called meanwhile; OSError.
        """
        if not verify:
            return self.size_bytes(content.digest) == content.size_bytes
        match self.is_recorded(content):
            case None:
                return self._verify_unknown(content, pace or self._until_stopped)
            case is_here:
                return is_here

    def is_recorded(self, content: ContentRecord) -> bool | None:
        """As `has`, and None where only reading all of it can tell."""
        status = self._status(content.digest)
        if status is None:
            return False
        record = self.record(content.digest)
        if record is not None and record.describes(status):
            return record.size_bytes == content.size_bytes
        return None

    def stop(self) -> None:
        """End soon what is being verified now or later."""
        self._stopping.set()

    def _until_stopped(self, done_bytes: int, read_bytes: int) -> None:
        if self._stopping.is_set():
            raise Unavailable("an image was being verified when this process was to end")

    def record(self, digest: str) -> StoredContent | None:
        record = read_record(self.record_path(digest), StoredContent)
        return record if record is not None and record.digest == digest else None

    def size_bytes(self, digest: str) -> int | None:
        status = self._status(digest)
        return None if status is None else status.st_size

    def allocated_bytes(self, digest: str) -> int:
        """What removing a content frees; 0 when it is not here."""
        status = self._status(digest)
        return status.st_blocks * 512 if status is not None and status.st_nlink == 1 else 0

    def of_key(self, key: str) -> ContentRecord | None:
        """What once came under a staging key, if it is still here (unverified)."""
        digest = key
        with contextlib.suppress(OSError):
            digest = f"sha256:{(self._keys / hex_of(key)).readlink().name}"
        size_bytes = self.size_bytes(digest)
        return None if size_bytes is None else ContentRecord(digest, size_bytes)

    def _status(self, digest: str) -> os.stat_result | None:
        try:
            status = self.path(digest).lstat()
        except FileNotFoundError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None  # a link leads to quarantine

    def _verify_unknown(self, content: ContentRecord, pace: Pace) -> bool:
        for _ in range(_ATTEMPTS):
            try:
                descriptor = os.open(self.path(content.digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ELOOP):  # removed or quarantined meanwhile
                    return False
                raise
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # another one may be verifying it, or just giving it its record
                result = self._verify_locked(content, os.fstat(descriptor), pace)
            finally:
                os.close(descriptor)
            if result is not None:
                return result
        raise Unavailable(f"image content {content.digest} keeps changing while it is verified: who writes to it?")

    def _verify_locked(self, content: ContentRecord, before: os.stat_result, pace: Pace) -> bool | None:
        """None: the file changed, or is another one, meanwhile."""
        status = self._status(content.digest)
        if status is None:
            return False
        if status.st_ino != before.st_ino:
            return None
        record = self.record(content.digest)
        if record is not None and record.describes(status):
            return record.size_bytes == content.size_bytes
        _log.info("image content %s is not as its record says, or has none: verifying it", content.digest)
        verdict = self.inspect(content, pace)
        if verdict.damage is None:
            return True if self.renew(content.digest, before) else None
        self.quarantine(content.digest, before.st_ino, verdict.damage)
        return False

    # --- Verification

    def inspect(self, content: ContentRecord, pace: Pace = any_pace) -> Verdict:
        """Read a content in full. Only lists of its chunks are written. Raises: OSError, what `pace` raises."""
        path, record = self.path(content.digest), self.record(content.digest)
        told = self.lists.of_tree(content.digest)
        if record is not None and record.kind is ContentKind.TREE and told is None:
            return self._relist(content, record.chunk_bytes, pace)
        told = told or self.lists.kept(content, LIST_BYTES)
        verdict = examine(path, content.digest, content.size_bytes, told, list_bytes=LIST_BYTES, pace=pace)
        if verdict.damage is None and verdict.chunks is not None and verdict.chunks != told:
            self._keep(content, verdict.chunks)
        return verdict

    def _relist(self, content: ContentRecord, chunk_bytes: int, pace: Pace) -> Verdict:
        """Verify a tree whose list of chunks was lost: it is made again, and right if its digest is."""
        try:
            chunks = list_chunks(self.path(content.digest), content.size_bytes, chunk_bytes, pace)
        except EOFError:
            return Verdict(Damage(f"it is shorter than {content.size_bytes} bytes"))
        if chunks.digest() != content.digest:
            return Verdict(Damage("its list of chunks is lost, and one made again has another digest"))
        self._keep(content, chunks)
        return Verdict(None, chunks)

    def renew(self, digest: str, status: os.stat_result) -> bool:
        """Record that the file that had `status` before it was read is right; False when it has changed since."""
        now = self._status(digest)
        if now is None or (now.st_ino, now.st_ctime_ns) != (status.st_ino, status.st_ctime_ns):
            return False
        record = self.record(digest)
        self._write_record(digest, now, record.key if record is not None else "")
        return True

    def verified_list(self, content: ContentRecord) -> ChunkList | None:
        """The list of a raw file's chunks that is as old as its last verification; a younger one says what the file was
        when `chunk_list` read it, right or not."""
        try:
            made_ns = self.lists.path(content.digest, LIST_BYTES).stat().st_mtime_ns
            verified_ns = self.record_path(content.digest).stat().st_mtime_ns
        except FileNotFoundError:
            return None
        return self.lists.kept(content, LIST_BYTES) if made_ns <= verified_ns else None

    def chunk_list(self, content: ContentRecord, chunk_bytes: int, pace: Pace | None = None) -> ChunkList | None:
        """The digests of a content's chunks of that size, computed once and kept; None when it is not here.

        Raises: OSError, what `pace` raises.
        """
        if not self.has(content, pace=pace):
            return None
        chunks = self.lists.kept(content, chunk_bytes)
        if chunks is None:
            try:
                chunks = list_chunks(
                    self.path(content.digest), content.size_bytes, chunk_bytes, pace or self._until_stopped
                )
            except (FileNotFoundError, EOFError):  # removed meanwhile
                return None
            self._keep(content, chunks)
        return chunks

    def _keep(self, content: ContentRecord, chunks: ChunkList) -> None:
        with self._users(content.digest).locked(fcntl.LOCK_SH):
            if os.path.lexists(self.path(content.digest)):
                self.lists.keep(content.digest, chunks)

    def _write_record(self, digest: str, status: os.stat_result, key: str, verified_at: str | None = None) -> None:
        chunks = self.lists.of_tree(digest)
        write_record(
            self.record_path(digest),
            StoredContent(
                digest=digest,
                size_bytes=status.st_size,
                kind=ContentKind.TREE if chunks is not None else ContentKind.RAW,
                chunk_bytes=chunks.chunk_bytes if chunks is not None else 0,
                inode=status.st_ino,
                ctime_ns=status.st_ctime_ns,
                verified_at=verified_at or rfc3339(time.time()),
                key=key if key != digest else "",
            ),
        )

    # --- Coming

    def commit(self, staging: Staging, content: ContentRecord, chunks: bytes | None = None) -> None:
        """Make verified and synced data visible, and unlock. A crash leaves it invisible, or to be verified once more.

        Raises: OSError. ValueError: `chunks` is no list of chunks of such a file.
        """
        if chunks is not None and ChunkList.from_bytes(chunks).size_bytes != content.size_bytes:
            raise ValueError(f"the list of chunks is not of a file of {content.size_bytes} bytes")
        self.directory.mkdir(parents=True, exist_ok=True)
        if staging.key != content.digest:
            self._remember_key(staging.key, content.digest)
        # What came under two keys is not written twice: machines may refer to the file that is there.
        if not self.has(content):
            with self._users(content.digest).locked(fcntl.LOCK_SH):
                self._place(staging.data, content.digest, chunks, staging.key, staging.verified_at)
        staging.discard()

    def take(self, path: Path, content: ContentRecord, chunks: bytes | None = None) -> bool:
        """Make a file that was verified just now a content, by renaming it; False when it lies on another volume."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._users(content.digest).locked(fcntl.LOCK_SH):
            try:
                self._place(path, content.digest, chunks, content.digest)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                return False
        return True

    def _place(self, data: Path, digest: str, chunks: bytes | None, key: str, verified_at: str | None = None) -> None:
        if chunks is not None:
            self.lists.keep(digest, ChunkList.from_bytes(chunks))
        descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # Until it has its record nobody else need verify it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            sync(descriptor)
            os.fchmod(descriptor, 0o444)
            data.replace(self.path(digest))
            sync_directory(self.directory)
            self._write_record(digest, os.fstat(descriptor), key, verified_at)
        finally:
            os.close(descriptor)

    def _remember_key(self, key: str, digest: str) -> None:
        self._keys.mkdir(parents=True, exist_ok=True)
        staged = self._keys / f"{STAGING_PREFIX}{secrets.token_hex(4)}"
        staged.symlink_to(Path("..") / "content" / "sha256" / hex_of(digest))
        staged.replace(self._keys / hex_of(key))

    # --- Going

    def quarantine(self, digest: str, inode: int, damage: Damage) -> Path | None:
        """Take a damaged file out of use; its new path. None when another file has taken its name meanwhile."""
        path = self.path(digest)
        with self._users(digest).locked(fcntl.LOCK_EX):
            status = self._status(digest)
            if status is None or status.st_ino != inode:
                return None
            target = self._quarantine.place(digest, damage)
            if self.is_used(digest):
                # Its name must lead somewhere at every moment. The hard link changes the ctime of a file that nobody
                # trusts any more.
                target.hardlink_to(path)
                staged = path.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}")
                staged.symlink_to(Path("..") / ".." / self.quarantine_directory.name / target.name)
                staged.replace(path)
            else:
                path.rename(target)
            sync_directory(self.quarantine_directory)
            sync_directory(self.directory)
            self._remove_companions(digest)
        _log.warning("image content %s is damaged (%s): moved to %s, to be pulled again", digest, damage.reason, target)
        return target

    def is_used(self, digest: str) -> bool:
        """Whether something refers to the file by its name."""
        return self._users(digest).are_there(self.path(digest))

    def remove(self, digest: str) -> int | None:
        """Remove a content; the bytes freed. None while something refers to it by its name."""
        with contextlib.suppress(BlockingIOError), self._users(digest).locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            if self.is_used(digest):
                return None
            path = self.path(digest)
            freed_bytes = 0
            with contextlib.suppress(FileNotFoundError):
                freed_bytes = allocated_bytes(path)
                path.unlink()
            self._remove_companions(digest)
            shutil.rmtree(self.users_path(digest), ignore_errors=True)
            return freed_bytes
        return None

    def _remove_companions(self, digest: str) -> None:
        self.record_path(digest).unlink(missing_ok=True)
        self.lists.remove(digest)

    def _users(self, digest: str) -> Users:
        return Users(self.users_path(digest))

    def sweep_quarantine(self, before: float) -> int:
        """Remove damaged files that were found before that time and that nothing refers to; the bytes freed."""
        freed_bytes = 0
        for digest, file in self._quarantine.found_before(before):
            with contextlib.suppress(BlockingIOError), self._users(digest).locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                path = self.path(digest)
                if path.is_symlink() and path.readlink().name == file.name:
                    if self.is_used(digest):
                        continue
                    path.unlink()
                freed_bytes += self._quarantine.remove(file)
        self._quarantine.forget_orphans()
        return freed_bytes

    def sweep(self, wanted: frozenset[str]) -> int:
        """Remove contents but those of these names (hex) and those in use, and what crashes leave; the bytes freed."""
        found = {path.name.split(".", 1)[0] for path in entries(self.directory)}
        digests = [f"sha256:{name}" for name in sorted(found) if is_hex(name)]
        freed_bytes = sum(self.remove(digest) or 0 for digest in digests if self._is_surplus(digest, wanted))
        for digest in digests:
            self._users(digest).forget_dead()
        for link in entries(self._keys):
            if not link.exists():
                link.unlink(missing_ok=True)
        remove_old(path for path in entries(self.directory) if path.name.startswith(STAGING_PREFIX))
        return freed_bytes

    def _is_surplus(self, digest: str, wanted: frozenset[str]) -> bool:
        return hex_of(digest) not in wanted or not os.path.lexists(self.path(digest))
