"""Partition table, loader and firmware, as firmware reads them."""

import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest

from tools.guest_image import esp, firmware, gpt
from tools.guest_image.errors import BuildError

MIB = 1024 * 1024


def partition(path: Path, mebibytes: int, mark: bytes) -> gpt.Partition:
    path.write_bytes(mark.ljust(mebibytes * MIB, b"\0"))
    return gpt.Partition(gpt.EFI_SYSTEM, UUID(int=len(mark)), path.name, path)


def test_both_tables_are_valid_and_name_the_partitions(tmp_path: Path) -> None:
    parts = [partition(tmp_path / "esp", 2, b"first"), partition(tmp_path / "root", 3, b"second!")]
    gpt.write(tmp_path / "disk", parts, guid=UUID(int=9))
    disk = (tmp_path / "disk").read_bytes()
    assert len(disk) == 5 * MIB + gpt.overhead_bytes()
    assert disk[510:512] == b"\x55\xaa"
    last = len(disk) // 512 - 1
    for current, other in ((1, last), (last, 1)):
        header = bytearray(disk[current * 512 : current * 512 + 92])
        checksum, mine, backup = *struct.unpack_from("<I", header, 16), *struct.unpack_from("<QQ", header, 24)
        header[16:20] = bytes(4)
        assert (zlib.crc32(header), mine, backup) == (checksum, current, other)
        table, count, size, entries_checksum = struct.unpack_from("<QIII", header, 72)
        entries = disk[table * 512 : table * 512 + count * size]
        assert zlib.crc32(entries) == entries_checksum
        for at, mark in enumerate((b"first", b"second!")):
            start, end = struct.unpack_from("<QQ", entries, at * size + 32)
            assert disk[start * 512 : start * 512 + len(mark)] == mark
            assert (end - start + 1) * 512 == (at + 2) * MIB


def test_partition_that_is_no_whole_mebibyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="not a whole number of MiB"):
        gpt.write(
            tmp_path / "disk", [gpt.Partition(gpt.EFI_SYSTEM, UUID(int=1), "odd", tmp_path / "odd")], guid=UUID(int=2)
        )


def stub(*, header_bytes: int = 1024) -> bytes:
    """A PE file with one section, as far as a loader looks at it."""
    image = bytearray(header_bytes + 512)
    image[0:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0)
    struct.pack_into("<II", image, 0x98 + 32, 4096, 512)
    struct.pack_into("<I", image, 0x98 + 60, header_bytes)
    struct.pack_into("<8sIIII", image, 0x98 + 240, b".text", 100, 0x4000, 512, header_bytes)
    return bytes(image)


def test_sections_of_the_unified_kernel_hold_what_was_given() -> None:
    kernel, initramfs = b"kernel" * 1000, b"initramfs" * 10
    loader = esp.unified_kernel(
        stub(), kernel=kernel, initramfs=initramfs, command_line="console=ttyS0", os_release="ID=guest\n"
    )
    count = struct.unpack_from("<H", loader, 0x86)[0]
    sections, end = {}, 0
    for at in range(count):
        name, size, address, raw_size, offset = struct.unpack_from("<8sIIII", loader, 0x98 + 240 + at * 40)
        assert address >= end
        assert address % 4096 == 0
        assert raw_size % 512 == offset % 512 == 0
        sections[name.rstrip(b"\0").decode()] = loader[offset : offset + size]
        end = address + size
    assert sections[".linux"] == kernel
    assert sections[".initrd"] == initramfs
    assert (sections[".cmdline"], sections[".osrel"]) == (b"console=ttyS0", b"ID=guest\n")
    assert struct.unpack_from("<I", loader, 0x98 + 56)[0] >= end


def test_stub_without_room_for_sections_is_refused() -> None:
    with pytest.raises(BuildError, match="no room"):
        esp.unified_kernel(stub(header_bytes=512), kernel=b"", initramfs=b"", command_line="", os_release="")


@pytest.mark.parametrize("code", [b"", b"\xff" * 4096, b"\0" * 40 + b"_FVH" + b"\0" * 100])
def test_unknown_firmware_is_left_alone(code: bytes) -> None:
    with pytest.raises(firmware.UnknownLayoutError):
        firmware.trimmed(code)
