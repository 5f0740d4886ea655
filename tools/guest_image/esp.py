"""The EFI system partition: one unified kernel image at the removable-media path of a FAT file system."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import BuildError
from .programs import run

_MIB = 1024 * 1024
# Section flags of the PE format: initialised data, readable (systemd-stub reads these sections in place).
_SECTION_FLAGS = 0x40000040
_SECTION_HEADER_BYTES = 40
_PAGE_BYTES = 4096
# Removable media path of an x86-64 loader, UEFI specification 3.5.1.1.
_LOADER_PATH = "::/EFI/BOOT/BOOTX64.EFI"


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def unified_kernel(stub: bytes, *, kernel: bytes, initramfs: bytes, command_line: str, os_release: str) -> bytes:
    """systemd's EFI stub with kernel, initial root and command line added as PE sections (UAPI.5 unified kernel image).

    The sections follow the stub without gaps: firmware allocates and clears the whole span in memory.

    Raises: BuildError when the stub is no PE file or its header has no room for four sections.
    """
    image = bytearray(stub)
    pe = struct.unpack_from("<I", image, 0x3C)[0]
    if image[:2] != b"MZ" or image[pe : pe + 4] != b"PE\0\0":
        raise BuildError("the EFI stub is not a PE file: package systemd-boot-efi has an unknown layout")
    count, optional_bytes = struct.unpack_from("<H", image, pe + 6)[0], struct.unpack_from("<H", image, pe + 20)[0]
    optional = pe + 24
    section_alignment, file_alignment = struct.unpack_from("<II", image, optional + 32)
    size_of_headers = struct.unpack_from("<I", image, optional + 60)[0]
    table = optional + optional_bytes
    added = [
        (b".osrel", os_release.encode()),
        (b".cmdline", command_line.encode()),
        (b".linux", kernel),
        (b".initrd", initramfs),
    ]
    if table + (count + len(added)) * _SECTION_HEADER_BYTES > size_of_headers:
        raise BuildError("the EFI stub has no room for four more section headers: package systemd-boot-efi is too new")
    address = max(
        sum(struct.unpack_from("<II", image, table + index * _SECTION_HEADER_BYTES + 8)) for index in range(count)
    )
    for index, (name, content) in enumerate(added, start=count):
        address = _aligned(address, max(section_alignment, _PAGE_BYTES))
        image.extend(b"\0" * (-len(image) % file_alignment))
        raw_bytes = _aligned(len(content), file_alignment)
        header = struct.pack(
            "<8sIIIIIIHHI", name, len(content), address, raw_bytes, len(image), 0, 0, 0, 0, _SECTION_FLAGS
        )
        start = table + index * _SECTION_HEADER_BYTES
        image[start : start + _SECTION_HEADER_BYTES] = header
        image.extend(content.ljust(raw_bytes, b"\0"))
        address += len(content)
    struct.pack_into("<H", image, pe + 6, count + len(added))
    struct.pack_into("<I", image, optional + 56, _aligned(address, section_alignment))  # SizeOfImage
    struct.pack_into("<I", image, optional + 64, 0)  # CheckSum: firmware ignores it for applications
    return bytes(image)


def write(image: Path, loader: bytes, *, volume_id: int, epoch_s: int) -> None:
    """Create `image`, a FAT16 file system of whole MiB just large enough, with `loader` where firmware looks for it.

    Raises: BuildError when mkfs.vfat or mtools fail.
    """
    # FAT16 needs 4085 clusters: with 2 KiB ones 16 MiB is the least.
    size_bytes = max(16 * _MIB, _aligned(len(loader) + 2 * _MIB, _MIB))
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    fixed = {"SOURCE_DATE_EPOCH": str(epoch_s), "MTOOLS_SKIP_CHECK": "1"}
    run(
        [
            "mkfs.vfat",
            "-F",
            "16",
            "-s",
            "4",
            "-S",
            "512",
            "-n",
            "ESP",
            "-i",
            f"{volume_id:08x}",
            "--invariant",
            str(image),
        ],
        environment=fixed,
    )
    with TemporaryDirectory(prefix="guest-image-") as scratch:
        source = Path(scratch) / "loader"
        source.write_bytes(loader)
        os.utime(source, (epoch_s, epoch_s))
        run(["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"], environment=fixed)
        run(["mcopy", "-m", "-i", str(image), str(source), _LOADER_PATH], environment=fixed)
