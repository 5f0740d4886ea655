"""Which libraries a Mach-O executable is linked to (mach-o/loader.h, mach-o/fat.h)."""

import struct
from dataclasses import dataclass

ARM64 = 0x0100000C
_FAT, _FAT_64 = 0xCAFEBABE, 0xCAFEBABF
_MACHO_64 = 0xFEEDFACF
_HEADER_SIZE = 32
_REQUIRED = 0x80000000
_LIBRARY_COMMANDS = frozenset({0xC, 0x18 | _REQUIRED, 0x1F | _REQUIRED})
"""LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB."""
_RPATH = 0x1C | _REQUIRED


@dataclass(frozen=True, slots=True)
class Linkage:
    libraries: tuple[str, ...]
    """Install names, such as ``@executable_path/../lib/libpython3.12.dylib``."""
    rpaths: tuple[str, ...]
    """Where ``@rpath/`` is looked for."""


def is_macho(data: bytes) -> bool:
    return len(data) >= 8 and (
        struct.unpack_from(">I", data)[0] in (_FAT, _FAT_64) or struct.unpack_from("<I", data)[0] == _MACHO_64
    )


def linkage(data: bytes) -> Linkage:
    """Of the arm64 part, or of the only one.

    Raises:
        ValueError: not a Mach-O file of 64 bits, or cut off.
    """
    try:
        return _linkage(_slice(data))
    except (struct.error, IndexError) as exc:
        raise ValueError("the executable is cut off") from exc


def _slice(data: bytes) -> bytes:
    (magic,) = struct.unpack_from(">I", data)
    if magic not in (_FAT, _FAT_64):
        return data
    (count,) = struct.unpack_from(">I", data, 4)
    entry = ">iiIII" if magic == _FAT else ">iiQQII"
    for index in range(count):
        kind, _, offset, size, *_ = struct.unpack_from(entry, data, 8 + index * struct.calcsize(entry))
        if kind == ARM64:
            return data[offset : offset + size]
    raise ValueError("the executable has no part for Apple silicon")


def _linkage(data: bytes) -> Linkage:
    magic, _, _, _, count = struct.unpack_from("<IiiII", data)
    if magic != _MACHO_64:
        raise ValueError("not a Mach-O executable of 64 bits")
    libraries: list[str] = []
    rpaths: list[str] = []
    position = _HEADER_SIZE
    for _ in range(count):
        command, size, name_offset = struct.unpack_from("<III", data, position)
        if size < 8 or position + size > len(data):
            raise ValueError("a load command is cut off")
        if command in _LIBRARY_COMMANDS or command == _RPATH:
            name = data[position + name_offset : position + size].split(b"\0")[0].decode()
            (rpaths if command == _RPATH else libraries).append(name)
        position += size
    return Linkage(tuple(libraries), tuple(rpaths))
