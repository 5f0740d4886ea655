"""State files that are complete or absent: staged beside their place, synced, renamed."""

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.errors import AlreadyExists

STAGING_PREFIX = ".staging-"
"""What a crash left half made starts with this and may be removed by whoever owns the directory."""
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_NO_REFLINK = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.EACCES}
)
_NO_FULL_SYNC = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENODEV})


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file with these bytes; a reader sees the old content or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One name per call: a thread whose task was cancelled may still be writing the same file.
    staged = path.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{path.name}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync(descriptor: int) -> None:
    """Make what was written to a file or directory survive a loss of power.

    fsync(2) of macOS leaves it in the drive's cache, F_FULLFSYNC does not; network and foreign file systems refuse it.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError as exc:
            if exc.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames in this directory survive a crash of the host."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def read_if_present(path: Path) -> bytes | None:
    """The content, or None when there is no such file."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def open_regular(path: Path) -> int:
    """A descriptor for reading, of a regular file and of nothing else: a FIFO would keep us waiting, a device for ever.

    Raises: OSError (EINVAL when it is something else), which names the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place at the end, or goes away when something fails.

    Raises: AlreadyExists when there is something at `target`, be it a link to nowhere; OSError.
    """
    if os.path.lexists(target):
        raise AlreadyExists(f"{target} exists: give another directory, or remove it")
    staging = target.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{target.name}")
    staging.mkdir(parents=True, mode=0o700)
    try:
        yield staging
        sync_directory(staging)
        staging.rename(target)
        sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it; one that is gone already is no error."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def children(path: Path) -> list[str]:
    """Names of the finished entries of a directory, sorted; none when it is not there."""
    try:
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(STAGING_PREFIX))
    except FileNotFoundError:
        return []


def reflink(source: Path, target: Path) -> bool:
    """Make `target` (new, mode 0600) share the blocks of `source`; False, and no target, where that cannot be.

    clonefile(2) on APFS, FICLONE on XFS and btrfs. Raises: OSError.
    """
    if sys.platform == "darwin":
        return _clonefile(source, target)
    original = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(descriptor, _FICLONE, original)
        except OSError as exc:
            target.unlink()
            if exc.errno in _NO_REFLINK:
                return False
            raise
        finally:
            os.close(descriptor)
    finally:
        os.close(original)
    return True


def _clonefile(source: Path, target: Path) -> bool:
    """clonefile(2), sys/clonefile.h: 0 on success; the target must not exist. It copies the mode too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clonefile(os.fsencode(source), os.fsencode(target), ctypes.c_uint32(0)) == 0:
        target.chmod(0o600)
        return True
    code = ctypes.get_errno()
    if code in _NO_REFLINK:
        return False
    raise OSError(code, os.strerror(code), str(source))
