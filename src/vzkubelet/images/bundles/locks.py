"""Whether somebody runs a machine: each tool locks one of its files in its own way, and says so in no other.

- tart: fcntl(2), exclusive, on ``config.json``; lume: flock(2), exclusive, on the same;
- Virtualization.framework itself: exclusive on auxiliary storage and disk;
- QEMU: shared locks on single bytes, of which byte 101 says "I write" (docs/system/images.rst, block/file-posix.c).

A lock is only asked for here, never kept: what a machine that is started meanwhile writes shows in the file's times.
"""

import fcntl
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from vzkubelet.errors import Conflict

_QEMU_WRITES = 101
"""RAW_LOCK_PERM_BASE 100 + the number of BLK_PERM_WRITE."""
_FLOCK = "qqihh4x" if sys.platform == "darwin" else "hhqqi4x"
"""struct flock: the members' order differs."""


def check_unused(files: Sequence[Path], name: str) -> None:
    """Raises: Conflict when a virtual machine is using one of the files."""
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue  # who reads it says why not
        try:
            if _is_locked(descriptor):
                raise Conflict(f"{name} is running ({path.name} is locked): shut its virtual machine down first")
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return _conflicts(descriptor, fcntl.F_RDLCK, 0, 0) or _conflicts(descriptor, fcntl.F_WRLCK, _QEMU_WRITES, 1)


def _conflicts(descriptor: int, kind: int, start: int, length: int) -> bool:
    """Whether such a lock would not be given now (F_GETLK); length 0 is to the end."""
    whence = os.SEEK_SET
    asked = (start, length, 0, kind, whence) if sys.platform == "darwin" else (kind, whence, start, length, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, *asked))
    except OSError:
        return False
    found = struct.unpack(_FLOCK, answer)[3 if sys.platform == "darwin" else 0]
    return bool(found != fcntl.F_UNLCK)
