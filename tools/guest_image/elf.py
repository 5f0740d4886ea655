"""What the image builder needs to know of ELF files: shared library names and kernel module facts."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SHT_STRTAB_LINK = 6  # index of sh_link in a section header tuple
_SHT_DYNAMIC = 6
_DT_NEEDED = 1


class NotElfError(ValueError):
    """The bytes are not a little-endian 64-bit ELF file."""


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    link: int
    data: bytes


def _cstring(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _sections(image: bytes) -> list[_Section]:
    if image[:6] != b"\x7fELF\x02\x01":
        raise NotElfError("not a little-endian 64-bit ELF file")
    table_offset = struct.unpack_from("<Q", image, 0x28)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, table_offset + index * entry_size) for index in range(count)]

    def content(header: tuple[int, ...]) -> bytes:
        offset, size = header[4], header[5]
        return image[offset : offset + size]

    names = content(headers[names_index])
    return [
        _Section(_cstring(names, header[0]), header[1], header[_SHT_STRTAB_LINK], content(header)) for header in headers
    ]


def needed_libraries(image: bytes) -> list[str]:
    """Sonames of the DT_NEEDED entries, in file order; empty for a static program.

    Raises: NotElfError.
    """
    sections = _sections(image)
    for section in sections:
        if section.kind == _SHT_DYNAMIC:
            strings = sections[section.link].data
            return [
                _cstring(strings, value) for tag, value in struct.iter_unpack("<QQ", section.data) if tag == _DT_NEEDED
            ]
    return []


def module_dependencies(image: bytes) -> list[str]:
    """Names of the kernel modules that a .ko file says it depends on (its `depends=` field).

    Raises: NotElfError.
    """
    for section in _sections(image):
        if section.name == ".modinfo":
            for field in section.data.split(b"\0"):
                if field.startswith(b"depends="):
                    return [name for name in field[8:].decode().split(",") if name]
    return []
