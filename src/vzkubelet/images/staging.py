"""Places for contents on their way, one per key, locked by who writes there."""

import contextlib
import fcntl
import logging
import os
import shutil
from pathlib import Path

from vzkubelet.files import read_if_present, write_atomic

_log = logging.getLogger(__name__)
_LOCK = "lock"
_INHERITED = "verified-at"


class Staging:
    """A locked place for one content on its way. `data` is the file to write, `ledger` says what of it is good."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.ledger = directory / "ledger"
        self._lock = directory / _LOCK
        self._descriptor = descriptor

    @property
    def key(self) -> str:
        return f"sha256:{self.directory.name}"

    def inherit(self, verified_at: str) -> None:
        """Note that blocks were taken over from a content that was read last at that time (RFC 3339), and are not read
        now. It holds for whoever goes on here, too. Raises OSError."""
        write_atomic(self.directory / _INHERITED, verified_at.encode())

    @property
    def verified_at(self) -> str | None:
        """When the oldest of what is here was verified; None = on its way here."""
        inherited = read_if_present(self.directory / _INHERITED)
        return None if inherited is None else inherited.decode()

    def discard(self) -> None:
        """Remove the place with what is in it, and unlock."""
        # The lock goes last: who finds none makes one, and takes what else is there for its own.
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                if path != self._lock:
                    path.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._descriptor)

    def release(self) -> None:
        """Unlock; what is there is kept for who goes on."""
        os.close(self._descriptor)


class StagingRoot:
    """``staging/<hex of the key>/{lock,data,ledger}``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, key: str) -> Staging | None:
        """The place of a key with what a killed writer left in it; None when somebody, in whatever process, has it."""
        directory = self.path / key.removeprefix("sha256:")
        directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # its owner has just removed the directory
            return None
        if not _lock_current(descriptor, directory / _LOCK):
            os.close(descriptor)
            return None
        return Staging(directory, descriptor)

    def sweep(self, older_than: float) -> int:
        """Remove what nobody writes to and was written last before that time (since the epoch); the bytes freed."""
        freed_bytes = 0
        for entry in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if not entry.is_dir():
                entry.unlink(missing_ok=True)
                continue
            written_at = _written_at(entry)
            if written_at is None or written_at >= older_than:
                continue
            staging = self.stage(entry.name)
            if staging is None:
                continue
            _log.info("removing what an interrupted pull left: %s", entry.name)
            freed_bytes += allocated_below(entry)
            staging.discard()
        return freed_bytes


def allocated_bytes(path: Path) -> int:
    """Bytes that removing the file frees."""
    status = path.lstat()
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def allocated_below(directory: Path) -> int:
    """Bytes that removing the directory frees; none when it is gone."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += allocated_bytes(path) if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def _written_at(directory: Path) -> float | None:
    """When something in it was written last; taking the lock does not count. None: it is gone."""
    try:
        return max(path.lstat().st_mtime for path in (directory, *directory.iterdir()))
    except FileNotFoundError:
        return None


def _lock_current(descriptor: int, path: Path) -> bool:
    """Lock an open lock file; False when it is taken, or is not the one at `path` because its owner removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
