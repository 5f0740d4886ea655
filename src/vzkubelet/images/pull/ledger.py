"""What of a content on its way is on this disk already: a small file beside it that is only ever appended to.

Records have one size and a checksum each. A process killed at any byte leaves a shorter file, whose last, half record
is not read and is cut off by the next one to write. The first record names the plan (what is being put together) and
the boot: what an earlier boot wrote to the data may not have reached the disk, except what lies before a `SYNCED`
record.

The done bytes in each record are for other processes that wait for the same content.
"""

import contextlib
import hashlib
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vzkubelet import files, sysctl

_RECORD = struct.Struct("<BxxxIQQQI")
"""Kind, number, two figures, done bytes, CRC-32 of what is before it."""
_CHECKED_BYTES = _RECORD.size - 4
_KEY_BYTES = 16
_BEGUN, _CHECKPOINT, _FINISHED, _CHUNKS, _SYNCED = range(1, 6)
_READ_BYTES = _RECORD.size * 8192


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position in a stream: so many compressed bytes expand to so many raw ones, which are in the file."""

    compressed_bytes: int
    raw_bytes: int


@dataclass(slots=True)
class Kept:
    """What a ledger says is in the file."""

    same_boot: bool = True
    """Else everything is to be hashed before it is believed."""
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    """By number of the stream."""
    finished: set[int] = field(default_factory=set)
    """Streams that were verified as a whole."""
    chunks: list[tuple[int, int]] = field(default_factory=list)
    """First chunk and number of chunks that were verified, in no order."""
    done_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.checkpoints or self.finished or self.chunks)


class Ledger:
    """The ledger of one content; its owner holds the lock of the staging place. Not thread-safe."""

    def __init__(self, path: Path, plan: str) -> None:
        """Opens what is there of the same plan, otherwise begins anew. Raises OSError."""
        self._header = _record(_BEGUN, 0, *_plan_key(plan), 0)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.kept = Kept()
        try:
            self._load()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _load(self) -> None:
        records = _records(self._descriptor)
        plan, boot = next(records, None), next(records, None)
        if plan != _fields(self._header) or boot is None:
            self.clear()
            return
        self.kept.same_boot = boot == _fields(_boot_record())
        size = 2 * _RECORD.size
        synced = Kept(same_boot=False)
        for kind, number, first, second, done_bytes in records:
            size += _RECORD.size
            _apply(self.kept, kind, number, first, second, done_bytes)
            if kind == _SYNCED:
                synced = _copy(self.kept)
        if not self.kept.same_boot:
            self.kept = synced
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def clear(self) -> None:
        """Forget everything: the file is going to be written from its start."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._write(self._header + _boot_record())
        self.kept = Kept()

    def renew(self, kept: Kept) -> None:
        """Begin anew with what has been found good, which lies on the disk; for a file of an earlier boot."""
        self.clear()
        self.kept = kept
        records = [_record(_FINISHED, number, 0, 0, kept.done_bytes) for number in sorted(kept.finished)]
        records += [
            _record(_CHECKPOINT, number, at.compressed_bytes, at.raw_bytes, kept.done_bytes)
            for number, at in sorted(kept.checkpoints.items())
        ]
        records += [_record(_CHUNKS, 0, first, count, kept.done_bytes) for first, count in kept.chunks]
        self._write(b"".join(records) + _record(_SYNCED, 0, 0, 0, kept.done_bytes))

    def checkpoint(self, stream: int, at: Checkpoint, done_bytes: int) -> None:
        self._write(_record(_CHECKPOINT, stream, at.compressed_bytes, at.raw_bytes, done_bytes))

    def finished(self, stream: int, done_bytes: int) -> None:
        self._write(_record(_FINISHED, stream, 0, 0, done_bytes))

    def chunks(self, first: int, count: int, done_bytes: int) -> None:
        self._write(_record(_CHUNKS, 0, first, count, done_bytes))

    def synced(self, done_bytes: int) -> None:
        """All that was recorded so far survives a loss of power: the caller has synced the data."""
        self._write(_record(_SYNCED, 0, 0, 0, done_bytes))
        files.sync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, records: bytes) -> None:
        view = memoryview(records)
        while view:
            view = view[os.write(self._descriptor, view) :]


def done_bytes(path: Path) -> int:
    """How far another process is, by its ledger; 0 when it has none yet."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        last = os.pread(file.fileno(), _RECORD.size, (size // _RECORD.size - 1) * _RECORD.size) if size else b""
        fields = _fields(last)
        if fields is not None:
            return fields[4]
    return 0


_Fields = tuple[int, int, int, int, int]


def _apply(kept: Kept, kind: int, number: int, first: int, second: int, done: int) -> None:
    kept.done_bytes = done
    match kind:
        case _ if kind == _CHECKPOINT:
            kept.checkpoints[number] = Checkpoint(first, second)
        case _ if kind == _FINISHED:
            kept.checkpoints.pop(number, None)
            kept.finished.add(number)
        case _ if kind == _CHUNKS:
            kept.chunks.append((first, second))


def _copy(kept: Kept) -> Kept:
    return Kept(False, dict(kept.checkpoints), set(kept.finished), list(kept.chunks), kept.done_bytes)


def _record(kind: int, number: int, first: int, second: int, done: int) -> bytes:
    packed = _RECORD.pack(kind, number, first, second, done, 0)[:_CHECKED_BYTES]
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def _fields(record: bytes) -> _Fields | None:
    """None for anything but a whole record."""
    if len(record) != _RECORD.size or zlib.crc32(record[:_CHECKED_BYTES]).to_bytes(4, "little") != record[-4:]:
        return None
    kind, number, first, second, done, _ = _RECORD.unpack(record)
    return kind, number, first, second, done


def _records(descriptor: int) -> Iterator[_Fields]:
    """The records up to the first that is damaged or cut."""
    offset = 0
    while block := os.pread(descriptor, _READ_BYTES, offset):
        for position in range(0, len(block), _RECORD.size):
            fields = _fields(block[position : position + _RECORD.size])
            if fields is None:
                return
            yield fields
        offset += len(block)


def _plan_key(plan: str) -> tuple[int, int]:
    digest = hashlib.sha256(plan.encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:_KEY_BYTES], "little")


def _boot_record() -> bytes:
    return _record(_BEGUN, 1, *_plan_key(boot_id()), 0)


@cache
def boot_id() -> str:
    """Differs after each start of the host."""
    if sys.platform == "darwin":
        return sysctl.read("kern.bootsessionuuid").rstrip(b"\0").decode()
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
