"""A raw file being written by several threads: past the page cache where that works, zeros left as holes.

Buffered writes of gigabytes cost several times the CPU of direct ones (measured here: 2.3 s per GB against 0.25) and
push everything else out of memory. Linux: O_DIRECT from page-aligned buffers, whole blocks only; what sticks out at the
ends of a run goes through a second, ordinary descriptor, to other blocks. macOS: F_NOCACHE, which wants no alignment.
Where direct writes are refused (tmpfs, some network file systems) ordinary ones are made.

What a range holds before it is written must be zeros: `RawFile.clear` makes it so.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
from functools import cache
from pathlib import Path

from vzkubelet import files
from vzkubelet.images.sparse import data_runs

_ALIGNMENT_BYTES = 4096
"""Of memory, offset and length: what every disk and file system takes."""
BUFFER_BYTES = 1024 * 1024
"""One write. More is not faster, and what waits here is lost by a kill."""
_NOT_DIRECT = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_PUNCHING = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})


class RawFile:
    """The file; thread-safe. Its size is set once, before anything is written."""

    def __init__(self, path: Path) -> None:
        """Opens it, or makes it. Raises OSError."""
        self.path = path
        self._open()

    def _open(self) -> None:
        self._plain = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._direct = _open_direct(self.path, self._plain)
        except BaseException:
            os.close(self._plain)
            raise
        self._opened = {self._plain} if self._direct is None else {self._plain, self._direct}

    @property
    def is_direct(self) -> bool:
        return self._direct is not None

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._plain).st_size

    def resize(self, size_bytes: int) -> None:
        os.ftruncate(self._plain, size_bytes)

    def clone(self, source: Path) -> bool:
        """Make the file share all blocks with another one; False where the file system cannot. Nobody may write yet.

        Raises: OSError.
        """
        clone = self.path.with_name(self.path.name + ".clone")  # only a new file can be one
        clone.unlink(missing_ok=True)
        if not files.reflink(source, clone):
            return False
        clone.replace(self.path)
        self.close()
        self._open()
        return True

    def clear(self, start: int, end: int) -> None:
        """Make a range zeros, and a hole where the file system can."""
        end = min(end, self.size_bytes)
        if start >= end or _is_hole(self._plain, start, end):
            return
        try:
            _punch(self._plain, start, end)
        except OSError as exc:
            if exc.errno not in _NO_PUNCHING:
                raise
            self._zero(start, end)

    def _zero(self, start: int, end: int) -> None:
        zeros = bytes(min(end - start, BUFFER_BYTES))
        while start < end:
            start += os.pwrite(self._plain, zeros[: end - start], start)

    def read(self, start: int, end: int) -> bytes:
        """Through the page cache; shorter at the end of the file."""
        parts = []
        while start < end and (part := os.pread(self._plain, end - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, view: memoryview, offset: int) -> None:
        """Write all of it. Direct where `view` lies in memory as `offset` does in the file's blocks."""
        start, end = 0, len(view)
        if self._direct is not None:
            start = min(-offset % _ALIGNMENT_BYTES, end)
            last = max(start, end - (offset + end) % _ALIGNMENT_BYTES)
            self._write_plain(view[:start], offset)
            start += self._write_direct(view[start:last], offset + start)
        self._write_plain(view[start:end], offset + start)

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """What could be written so; less than all of it when this file system turns out to refuse it."""
        written = 0
        while written < len(view) and (descriptor := self._direct) is not None:
            try:
                written += os.pwrite(descriptor, view[written:], offset + written)
            except OSError as exc:
                if exc.errno not in _NOT_DIRECT:
                    raise
                self._direct = None  # closed with the file: other threads may be using it
            if written % _ALIGNMENT_BYTES:  # an ordinary write goes on
                break
        return written

    def _write_plain(self, view: memoryview, offset: int) -> None:
        written = 0
        while written < len(view):
            written += os.pwrite(self._plain, view[written:], offset + written)

    def sync(self) -> None:
        files.sync(self._plain)

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)


class Writer:
    """Writes runs of a `RawFile` from one thread. Runs of zeros are passed over."""

    def __init__(self, file: RawFile, position: int = 0) -> None:
        self._file = file
        self.position = position
        """Where the next bytes belong."""
        self._buffer = mmap.mmap(-1, BUFFER_BYTES + _ALIGNMENT_BYTES)  # aligned to pages
        self._view = memoryview(self._buffer)
        self._start = position
        self._filled = self._begin = position % _ALIGNMENT_BYTES
        self.written_bytes = 0
        """What was not zeros."""

    @property
    def complete_to(self) -> int:
        """Everything that was given before this position is in the file."""
        return self._start if self._filled > self._begin else self.position

    def seek(self, position: int) -> None:
        self.flush()
        self.position = position

    def write(self, data: bytes) -> None:
        offset, view = self.position, memoryview(data)
        last = 0
        for start, end in data_runs(data, offset):
            if start > last:
                self.flush()
            self._put(view[start:end], offset + start)
            last = end
        if last < len(data):
            self.flush()  # zeros come next
        self.position = offset + len(data)

    def _put(self, view: memoryview, offset: int) -> None:
        while view:
            if self._filled == self._begin:
                self._start = offset
                self._filled = self._begin = offset % _ALIGNMENT_BYTES
            part = view[: BUFFER_BYTES - self._filled]
            self._view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            offset += len(part)
            view = view[len(part) :]
            if self._filled == BUFFER_BYTES:
                self.flush()

    def flush(self) -> None:
        if self._filled > self._begin:
            self._file.write(self._view[self._begin : self._filled], self._start)
            self.written_bytes += self._filled - self._begin
        self._filled = self._begin

    def drop(self) -> None:
        """Forget what was not flushed."""
        self._filled = self._begin

    def close(self) -> None:
        """As `drop`, for good."""
        self._view.release()
        with contextlib.suppress(BufferError):  # a failed write's traceback still has a part of it
            self._buffer.close()


def _open_direct(path: Path, plain: int) -> int | None:
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(plain, fcntl.F_NOCACHE, 1)
        except OSError:
            return None
        return plain
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as exc:
        if exc.errno not in _NOT_DIRECT:
            raise
        return None


def _is_hole(descriptor: int, start: int, end: int) -> bool:
    """False where the file system cannot tell."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= end
    except OSError as exc:
        return exc.errno == errno.ENXIO


_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2  # linux/falloc.h
_F_PUNCHHOLE = 99  # sys/fcntl.h of macOS: struct fpunchhole {u32 flags, u32 reserved, off_t offset, off_t length}


def _punch(descriptor: int, start: int, end: int) -> None:
    """Raises OSError."""
    if sys.platform == "darwin":
        whole_start = -(-start // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        whole_end = end - end % _ALIGNMENT_BYTES
        if whole_start < whole_end:
            fcntl.fcntl(descriptor, _F_PUNCHHOLE, struct.pack("=IIqq", 0, 0, whole_start, whole_end - whole_start))
        for first, last in ((start, min(end, whole_start)), (max(start, whole_end), end)):
            if first < last:
                os.pwrite(descriptor, bytes(last - first), first)
        return
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _fallocate()(descriptor, mode, start, end - start):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _fallocate() -> "ctypes._FuncPointer":
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function
