"""A GUID partition table around partition images (UEFI specification 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

SECTOR_BYTES = 512
ALIGNMENT_BYTES = 1024 * 1024
EFI_SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX_ROOT_X86_64 = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")

_ENTRY_COUNT = 128
_ENTRY_BYTES = 128
_TABLE_SECTORS = _ENTRY_COUNT * _ENTRY_BYTES // SECTOR_BYTES
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Partition:
    kind: UUID
    guid: UUID
    name: str
    image: Path


def _header(current: int, other: int, last: int, table: int, guid: UUID, entries: bytes) -> bytes:
    def pack(checksum: int) -> bytes:
        first_usable, last_usable = 2 + _TABLE_SECTORS, last - _TABLE_SECTORS - 1
        return struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x00010000, 92, checksum, 0, current, other,
            first_usable, last_usable, guid.bytes_le, table, _ENTRY_COUNT, _ENTRY_BYTES, zlib.crc32(entries),
        )  # fmt: skip

    return pack(zlib.crc32(pack(0))).ljust(SECTOR_BYTES, b"\0")


def _protective_record(sectors: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"


def _sparse_copy(source: Path, disk: Path, offset: int) -> None:
    """Copy all but blocks of zeros, which the sparse disk already reads as."""
    zeros = bytes(_COPY_BYTES)
    with source.open("rb") as reader, disk.open("r+b") as writer:
        while block := reader.read(_COPY_BYTES):
            for start in range(0, len(block), 4096):
                page = block[start : start + 4096]
                if page != zeros[: len(page)]:
                    writer.seek(offset + start)
                    writer.write(page)
            offset += len(block)


def overhead_bytes() -> int:
    """What a disk holds besides its partitions: the aligned head, and a tail for the backup table."""
    return 2 * ALIGNMENT_BYTES


def write(disk: Path, partitions: Sequence[Partition], *, guid: UUID) -> None:
    """Create `disk`, a sparse file with the partitions' images, in order, each aligned to 1 MiB.

    Raises: ValueError when a partition image is not a whole number of MiB.
    """
    placed: list[tuple[Partition, int, int]] = []
    offset = ALIGNMENT_BYTES
    for partition in partitions:
        size = partition.image.stat().st_size
        if size % ALIGNMENT_BYTES:
            raise ValueError(f"partition {partition.name} has {size} bytes, not a whole number of MiB")
        placed.append((partition, offset, size))
        offset += size
    sectors = (offset + ALIGNMENT_BYTES) // SECTOR_BYTES
    last = sectors - 1
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s", partition.kind.bytes_le, partition.guid.bytes_le, start // SECTOR_BYTES,
            (start + size) // SECTOR_BYTES - 1, 0, partition.name.encode("utf-16-le"),
        )
        for partition, start, size in placed
    ).ljust(_ENTRY_COUNT * _ENTRY_BYTES, b"\0")  # fmt: skip
    with disk.open("wb") as stream:
        stream.truncate(sectors * SECTOR_BYTES)
        stream.write(_protective_record(sectors))
        stream.write(_header(1, last, last, 2, guid, entries))
        stream.write(entries)
        stream.seek((last - _TABLE_SECTORS) * SECTOR_BYTES)
        stream.write(entries)
        stream.write(_header(last, 1, last, last - _TABLE_SECTORS, guid, entries))
    for partition, start, _ in placed:
        _sparse_copy(partition.image, disk, start)
