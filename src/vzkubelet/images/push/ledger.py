"""Where a push stands, so that a killed one goes on: one locked file for each blob or disk on its way.

Written with one write(2) each time and not synced: that survives the death of the process, which is what happens. After
a loss of power the file may be anything, then the push starts anew. What a ledger says is checked: an upload's offset
with the registry, its bytes by the blob's digest, packs by asking for them.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vzkubelet.images.formats.chunk_index import PackFrames
from vzkubelet.images.formats.tree import DIGEST_BYTES

_KEPT_S = 7 * 24 * 3600.0
"""Registries forget unfinished uploads after a day to a week."""
_COURIER_WAIT_S = 60.0
_COURIER_POLL_S = 0.05


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An unfinished upload of a compressed stream."""

    location: str
    offset: int
    digest: str
    """sha256 of what the registry had confirmed: the stream made again must agree with it."""


class PackRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A pack that the registry has."""

    digest: str
    size_bytes: int
    chunks: str
    """base64 of, for each chunk in it, its sha256 and its stored length as 4 bytes, big-endian."""

    def frames(self) -> PackFrames:
        """Raises ValueError: malformed."""
        packed = base64.b64decode(self.chunks, validate=True)
        if len(packed) % _ENTRY_BYTES:
            raise ValueError("cut off")
        starts = range(0, len(packed), _ENTRY_BYTES)
        lengths = [int.from_bytes(packed[start + DIGEST_BYTES : start + _ENTRY_BYTES], "big") for start in starts]
        return PackFrames(lengths, b"".join([packed[start : start + DIGEST_BYTES] for start in starts]))


_ENTRY_BYTES = DIGEST_BYTES + 4


class Ledger:
    """One file, locked while open. Not for several threads at once."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    @contextlib.contextmanager
    def beside(cls, path: Path) -> Iterator["Ledger"]:
        """The ledger of whoever has it locked, or had when it died: for its courier."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield cls(path, descriptor)
        finally:
            os.close(descriptor)

    def upload(self) -> UploadRecord | None:
        """What the last `set_upload` wrote."""
        line = os.pread(self._descriptor, 64 * 1024, 0).partition(b"\n")[0]
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(line, type=UploadRecord)
        return None

    def set_upload(self, record: UploadRecord) -> None:
        os.pwrite(self._descriptor, msgspec.json.encode(record) + b"\n", 0)

    def packs(self) -> Iterator[tuple[PackRecord, PackFrames]]:
        """What `add_pack` wrote, but for a last line that is not whole."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            for line in file:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, ValueError):
                    record = msgspec.json.decode(line, type=PackRecord)
                    yield record, record.frames()

    def add_pack(self, digest: str, size_bytes: int, frames: PackFrames) -> None:
        """Remember a pack that the registry has."""
        packed = b"".join(
            [
                frames.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] + length.to_bytes(4, "big")
                for number, length in enumerate(frames.lengths)
            ]
        )
        record = PackRecord(digest=digest, size_bytes=size_bytes, chunks=base64.b64encode(packed).decode())
        os.lseek(self._descriptor, 0, os.SEEK_END)
        # The line break comes first: a line that a kill cut off then spoils nothing but itself.
        os.write(self._descriptor, b"\n" + msgspec.json.encode(record) + b"\n")

    def clear(self) -> None:
        os.ftruncate(self._descriptor, 0)

    def close(self, *, done: bool) -> None:
        """Unlock; `done` removes the file."""
        if done:
            self.path.unlink(missing_ok=True)
            _courier_path(self.path).unlink(missing_ok=True)
        os.close(self._descriptor)


def courier_lock(path: Path) -> int:
    """A descriptor that says, until it is closed, that somebody carries chunks for the ledger at `path`. Blocks."""
    descriptor = os.open(_courier_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _courier_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.courier")


def _wait_for_courier(path: Path) -> None:
    """Until the chunk that a push left its courier with has been sent, but not for ever."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(_courier_path(path), os.O_RDWR | os.O_CLOEXEC)
        try:
            limit = time.monotonic() + _COURIER_WAIT_S
            while time.monotonic() < limit:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(_COURIER_POLL_S)
        finally:
            os.close(descriptor)


class Ledgers:
    """All ledgers of a host. Methods block."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, *what: str) -> Ledger | None:
        """The ledger of what these words name together; None while another push has it open."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._root / hashlib.sha256("\0".join(what).encode()).hexdigest()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else its owner has just removed it
                _wait_for_courier(path)
                return Ledger(path, descriptor)
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def sweep(self) -> None:
        """Remove what is too old to go on from."""
        if not self._root.is_dir():
            return
        limit = time.time() - _KEPT_S
        for path in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
