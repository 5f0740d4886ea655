"""UEFI code for emulated guests: Debian's OVMF without the modules that only cost time there.

Without a TPM, OVMF's TPM detection waits 1.5 s for registers that do not exist, and its network stack and USB drivers
cost another 0.3 s of an emulated boot from disk. Their files become padding; nothing else changes. Formats: UEFI
Platform Initialization specification, volume 3 (firmware volumes and files).
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

_TPM = (
    *("Tcg2ConfigPei", "TpmMmioSevDecryptPei", "TcgPei", "Tcg2Pei", "Tcg2PlatformPei"),
    *("TcgDxe", "Tcg2Dxe", "Tcg2PlatformDxe", "Tcg2ConfigDxe"),
)
_NETWORK = (
    *("DpcDxe", "SnpDxe", "VlanConfigDxe", "MnpDxe", "ArpDxe", "VirtioNetDxe", "TcpDxe", "UefiPxeBcDxe", "IScsiDxe"),
    *("Dhcp4Dxe", "Ip4Dxe", "Udp4Dxe", "Mtftp4Dxe", "Dhcp6Dxe", "Ip6Dxe", "Udp6Dxe", "Mtftp6Dxe", "DnsDxe"),
    *("TlsDxe", "TlsAuthConfigDxe", "HttpDxe", "HttpUtilitiesDxe", "HttpBootDxe"),
    *("Shell", "tftpDynamicCommand", "httpDynamicCommand", "LinuxInitrdDynamicShellCommand"),
)
_USB = ("UhciDxe", "EhciDxe", "XhciDxe", "UsbBusDxe", "UsbKbDxe", "UsbMassStorageDxe")
UNWANTED = frozenset((*_TPM, *_NETWORK, *_USB))

_FFS2 = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
_LZMA_SECTION = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
_VOLUME_FILE, _PADDING = 0x0B, 0xF0
_GUID_DEFINED_SECTION, _NAME_SECTION = 0x02, 0x15
_FILE_HEADER_BYTES = 24
_LARGE_FILE, _HAS_CHECKSUM = 0x01, 0x40
_FREE_SPACE = b"\xff" * _FILE_HEADER_BYTES


class UnknownLayoutError(Exception):
    """The firmware is not laid out as Debian 12's OVMF is."""


@dataclass(frozen=True, slots=True)
class _File:
    offset: int
    kind: int
    attributes: int
    size: int

    @property
    def content(self) -> int:
        return self.offset + _FILE_HEADER_BYTES


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _volumes(image: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Offset and size of each firmware volume."""
    found = image.find(b"_FVH")
    while found >= 0:
        start = found - 40
        if start >= 0 and UUID(bytes_le=bytes(image[start + 16 : start + 32])) == _FFS2:
            yield start, struct.unpack_from("<Q", image, start + 32)[0]
        found = image.find(b"_FVH", found + 4)


def _files(image: bytes | bytearray, volume: int, volume_size: int) -> Iterator[_File]:
    header_size, _, extended = struct.unpack_from("<HHH", image, volume + 48)
    offset = header_size
    if extended:
        offset = _aligned(extended + struct.unpack_from("<I", image, volume + extended + 16)[0], 8)
    while offset + _FILE_HEADER_BYTES <= volume_size:
        start = volume + offset
        header = image[start : start + _FILE_HEADER_BYTES]
        if header == _FREE_SPACE:
            return
        size = int.from_bytes(header[20:23], "little")
        if header[19] & _LARGE_FILE or size < _FILE_HEADER_BYTES:
            raise UnknownLayoutError(f"file of an unknown kind at {start:#x}")
        yield _File(start, header[18], header[19], size)
        offset = _aligned(offset + size, 8)


def _name(image: bytes | bytearray, file: _File) -> str | None:
    """The text of the file's user interface section."""
    position, end = file.content, file.offset + file.size
    while position + 4 <= end:
        size = int.from_bytes(image[position : position + 3], "little")
        if size < 4:
            return None
        if image[position + 3] == _NAME_SECTION:
            return image[position + 4 : position + size - 2].decode("utf-16-le", errors="replace")
        position = _aligned(position + size, 4)
    return None


def _seal(image: bytearray, start: int) -> None:
    """Set the header checksum: the header's bytes, without state and data checksum, sum to 0."""
    image[start + 16] = 0
    header = image[start : start + _FILE_HEADER_BYTES]
    image[start + 16] = -(sum(header) - header[17] - header[23]) & 0xFF


def _remove(image: bytearray, names: frozenset[str]) -> set[str]:
    removed = set()
    for volume, size in _volumes(image):
        for file in _files(image, volume, size):
            name = _name(image, file)
            if name in names:
                if file.attributes & _HAS_CHECKSUM:
                    raise UnknownLayoutError(f"module {name} has a data checksum")
                image[file.offset + 18] = _PADDING
                image[file.content : file.offset + file.size] = b"\xff" * (file.size - _FILE_HEADER_BYTES)
                _seal(image, file.offset)
                removed.add(name)
    return removed


def _compressed(content: bytes) -> bytes:
    encoded = bytearray(
        lzma.compress(
            content, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": 1 << 24}]
        )
    )
    struct.pack_into("<Q", encoded, 5, len(content))  # firmware reads the size from the header
    return bytes(encoded)


def trimmed(code: bytes) -> bytes:
    """OVMF's code without `UNWANTED`, of the same size.

    Raises: UnknownLayoutError when this is not the OVMF it was written for.
    """
    image = bytearray(code)
    try:
        outer = next((file for file in _files(image, *next(_volumes(image))) if file.kind == _VOLUME_FILE), None)
    except (StopIteration, struct.error) as exc:
        raise UnknownLayoutError("no firmware volume") from exc
    if outer is None:
        raise UnknownLayoutError("no file with volumes")
    section = outer.content
    size, kind = int.from_bytes(image[section : section + 3], "little"), image[section + 3]
    algorithm = UUID(bytes_le=bytes(image[section + 4 : section + 20]))
    if kind != _GUID_DEFINED_SECTION or algorithm != _LZMA_SECTION or _FILE_HEADER_BYTES + size != outer.size:
        raise UnknownLayoutError("the volumes are not in one LZMA section")
    data = section + struct.unpack_from("<H", image, section + 20)[0]
    try:
        inner = bytearray(lzma.decompress(bytes(image[data : section + size]), lzma.FORMAT_ALONE))
    except lzma.LZMAError as exc:
        raise UnknownLayoutError(f"the volumes cannot be decompressed: {exc}") from exc
    missing = UNWANTED - _remove(inner, UNWANTED)
    if missing:
        raise UnknownLayoutError(f"no modules {', '.join(sorted(missing))}")
    packed = _compressed(bytes(inner))
    section_size = data - section + len(packed)
    if section_size > size:
        raise UnknownLayoutError("the volumes became larger")
    image[data : section + size] = packed + b"\xff" * (size - section_size)
    image[section : section + 3] = section_size.to_bytes(3, "little")
    image[outer.offset + 20 : outer.offset + 23] = (_FILE_HEADER_BYTES + section_size).to_bytes(3, "little")
    _seal(image, outer.offset)
    return bytes(image)
