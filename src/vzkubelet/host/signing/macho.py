"""Mach-O executables: what they are linked to, and who they say they are (mach-o/loader.h, mach-o/fat.h)."""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

ARM64 = 0x0100000C
_FAT, _FAT_64 = 0xCAFEBABE, 0xCAFEBABF
_MACHO_64 = 0xFEEDFACF
_HEADER_SIZE = 32
_REQUIRED = 0x80000000
_LIBRARY_COMMANDS = frozenset({0xC, 0x18 | _REQUIRED, 0x1F | _REQUIRED})
"""LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB."""
_RPATH = 0x1C | _REQUIRED
_UUID = 0x1B
_NAMESPACE = uuid.UUID("5f0d2c0e-6f0b-4c53-9d2b-7a1f5f6c9e11")
"""Of our names, chosen once; another one would make every app a new one to macOS."""


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
    for part in _parts(data):
        if part.kind == ARM64 or not part.is_of_several:
            return _linkage(data[part.offset : part.offset + part.size])
    raise ValueError("the executable has no part for Apple silicon")


def with_uuid(data: bytes, identifier: str) -> bytes:
    """The same with build UUIDs (LC_UUID) of its own, which are always the same for one identifier.

    Local network privacy knows an app by signature and this UUID, and mixes up those that share one (TN3178, TN3179),
    as every copy of an interpreter would. The signature does not hold any more.
    Raises: ValueError, as `linkage`.
    """
    changed = bytearray(data)
    for part in _parts(data):
        if struct.unpack_from("<I", data, part.offset)[0] != _MACHO_64:
            continue  # 32 bits, in a file of several parts
        own = uuid.uuid5(_NAMESPACE, f"{identifier}:{part.kind}")
        for command, position, _ in _commands(data[part.offset : part.offset + part.size]):
            if command == _UUID:
                place = part.offset + position + 8
                changed[place : place + 16] = own.bytes
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class _Part:
    kind: int
    """CPU type."""
    offset: int
    size: int
    is_of_several: bool


def _parts(data: bytes) -> Iterator[_Part]:
    try:
        (magic,) = struct.unpack_from(">I", data)
        if magic not in (_FAT, _FAT_64):
            yield _Part(struct.unpack_from("<i", data, 4)[0], 0, len(data), is_of_several=False)
            return
        (count,) = struct.unpack_from(">I", data, 4)
        entry = ">iiIII" if magic == _FAT else ">iiQQII"
        for index in range(count):
            kind, _, offset, size, *_ = struct.unpack_from(entry, data, 8 + index * struct.calcsize(entry))
            yield _Part(kind, offset, size, is_of_several=True)
    except struct.error as exc:
        raise ValueError("the executable is cut off") from exc


def _commands(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, place and size of each load command of one part."""
    try:
        magic, _, _, _, count = struct.unpack_from("<IiiII", data)
        if magic != _MACHO_64:
            raise ValueError("not a Mach-O executable of 64 bits")
        position = _HEADER_SIZE
        for _ in range(count):
            command, size = struct.unpack_from("<II", data, position)
            if size < 12 or position + size > len(data):
                raise ValueError("a load command is cut off")
            yield command, position, size
            position += size
    except struct.error as exc:
        raise ValueError("the executable is cut off") from exc


def _linkage(data: bytes) -> Linkage:
    libraries: list[str] = []
    rpaths: list[str] = []
    for command, position, size in _commands(data):
        if command in _LIBRARY_COMMANDS or command == _RPATH:
            (offset,) = struct.unpack_from("<I", data, position + 8)
            name = data[position + offset : position + size].split(b"\0")[0].decode()
            (rpaths if command == _RPATH else libraries).append(name)
    return Linkage(tuple(libraries), tuple(rpaths))
