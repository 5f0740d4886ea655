"""What a disk file is, told by its first and last bytes: never by its name."""

import os
from pathlib import Path

from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.files import open_regular
from vzkubelet.images.bundles.bundle import DiskFormat, read_fault

SECTOR_BYTES = 512
_HEAD_BYTES = 128
_QCOW = b"QFI\xfb"
_BEGINNINGS = (
    (0, b"shdw", "ASIF", "diskutil image create from --format RAW"),
    (0, b"sprs", "a sparse image of macOS", "hdiutil convert -format UDTO"),
    (0, b"KDMV", "VMDK", "qemu-img convert -O raw"),
    (0, b"# Disk DescriptorFile", "VMDK", "qemu-img convert -O raw"),
    (0, b"vhdxfile", "VHDX", "qemu-img convert -O raw"),
    (0, b"conectix", "VHD", "qemu-img convert -O raw"),
    (64, b"\x7f\x10\xda\xbe", "VDI", "qemu-img convert -O raw"),
    (0, b"\x1f\x8b\x08", "compressed with gzip", "gunzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (0, b"BZh", "compressed with bzip2", "bunzip2"),
    (0, b"PK\x03\x04", "a zip archive", "unzip"),
)
"""Offset, magic, what it is, what makes a raw disk of it."""
_ENDINGS = ((b"koly", "a disk image of macOS (UDIF)", "hdiutil convert -format UDTO"),)
"""In the last sector."""


def format_of(path: Path) -> DiskFormat:
    """Raises: Unsupported for what is known and not taken, InvalidInput, NotFound, Forbidden, Unavailable."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            head = file.read(_HEAD_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
            file.seek(max(0, size_bytes - SECTOR_BYTES))
            tail = file.read(SECTOR_BYTES)
    except OSError as exc:
        raise read_fault(exc, path) from exc
    if head.startswith(_QCOW):
        return DiskFormat.QCOW2
    for offset, magic, name, remedy in _BEGINNINGS:
        if head[offset:].startswith(magic):
            raise _unsupported(path, name, remedy)
    for magic, name, remedy in _ENDINGS:
        if tail.startswith(magic):
            raise _unsupported(path, name, remedy)
    return DiskFormat.RAW


def check_sectors(path: Path) -> None:
    """Raises: InvalidInput: no machine takes it as a disk; OSError."""
    size_bytes = path.stat().st_size
    if size_bytes % SECTOR_BYTES:
        raise InvalidInput(
            f"{path} is no disk: its {size_bytes} bytes are no whole number of sectors of {SECTOR_BYTES}"
        )


def _unsupported(path: Path, name: str, remedy: str) -> Unsupported:
    return Unsupported(f"{path} is {name}, not a raw or qcow2 disk: convert it first, with {remedy}")
