"""A virtual machine on this host's disk, as its own tool keeps it, described for an import."""

import errno
import os
import plistlib
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from xml.parsers.expat import ExpatError

import msgspec

from vzkubelet.errors import Error, Exhausted, Forbidden, InvalidInput, NotFound, Unavailable, clip
from vzkubelet.files import open_regular
from vzkubelet.images.formats.artifact import Machine

T = TypeVar("T")
_DOCUMENT_LIMIT_BYTES = 1024 * 1024
MIB = 1024 * 1024
_MAX_CPUS = 1024
_MAX_MEMORY_BYTES = 64 * 1024**4
"""More than any machine has: what lies above is a slip of the pen."""


class DiskFormat(Enum):
    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a reader found. The files are there, are regular files, and belong to the bundle."""

    kind: str
    """The tool it is of, for messages."""
    path: Path
    machine: Machine
    disk: Path
    aux: Path | None
    """Auxiliary storage or EFI variables; None where the bundle has none, which an import then needs to be given."""
    disk_format: DiskFormat = DiskFormat.RAW

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.disk,) if self.aux is None else (self.disk, self.aux)


def member(directory: Path, name: str, *, of: str) -> Path:
    """A file of the bundle that `of`, a document in it, names.

    Raises: InvalidInput when the name leads out of the bundle, NotFound, Forbidden.
    """
    if not name or "\0" in name:
        raise InvalidInput(f'{directory / of} names the file "{clip(name)}", which is no file name')
    file = directory / name
    try:
        resolved = file.resolve()
    except (OSError, RuntimeError) as exc:
        raise InvalidInput(f"{file} cannot be followed: {exc}") from exc
    if not resolved.is_relative_to(directory.resolve()):
        what = f"{directory / of}: {clip(name)}" if name != of else str(file)
        raise InvalidInput(f"{what} leads to {clip(str(resolved))}, which is no part of the bundle")
    return regular(file)


def regular(file: Path) -> Path:
    """The file itself, known to be a regular one that can be read and is not empty.

    Raises: NotFound, InvalidInput, Forbidden, Unavailable.
    """
    try:
        descriptor = open_regular(file)
    except OSError as exc:
        raise read_fault(exc, file) from exc
    try:
        if not os.fstat(descriptor).st_size:
            raise InvalidInput(f"{file} is empty")
    finally:
        os.close(descriptor)
    return file


def document(directory: Path, name: str) -> bytes:
    """A small file of the bundle. Raises: NotFound, InvalidInput, Forbidden, Unavailable."""
    path = member(directory, name, of=name)
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            content = file.read(_DOCUMENT_LIMIT_BYTES + 1)
    except OSError as exc:
        raise read_fault(exc, path) from exc
    if len(content) > _DOCUMENT_LIMIT_BYTES:
        raise InvalidInput(f"{path} has more than 1 MiB: that is no description of a virtual machine")
    return content


def decode_json(content: bytes, type_: type[T], path: Path) -> T:
    """Raises: InvalidInput."""
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"{path} is not as its tool writes it: {clip(str(exc))}") from exc


def decode_plist(content: bytes, type_: type[T], path: Path) -> T:
    """Raises: InvalidInput."""
    try:
        parsed: Any = plistlib.loads(content)
        return msgspec.convert(parsed, type_)
    except (
        ValueError,
        ExpatError,
        OverflowError,
        RecursionError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
    ) as exc:
        # What the parser of damaged property lists raises; msgspec's and plistlib's own errors are ValueErrors.
        raise InvalidInput(f"{path} is not as its tool writes it: {clip(str(exc))}") from exc


def checked_hints(machine: Machine, path: Path) -> Machine:
    """The machine, known to have believable figures. Raises: InvalidInput."""
    for name, value, limit in (
        ("processors", max(machine.cpu_count, machine.cpu_min), _MAX_CPUS),
        ("bytes of memory", max(machine.memory_bytes, machine.memory_min_bytes), _MAX_MEMORY_BYTES),
    ):
        if value > limit:
            raise InvalidInput(f"{path}: {value} {name} are more than any machine has")
    if min(machine.cpu_count, machine.cpu_min, machine.memory_bytes, machine.memory_min_bytes) < 0:
        raise InvalidInput(f"{path}: processors and memory cannot be negative")
    return machine


def read_fault(exc: OSError, path: Path) -> Error:
    """A failure to read what the user gave, as one of our errors."""
    reason = exc.strerror or str(exc)
    match exc:
        case FileNotFoundError():
            return NotFound(f"{path} does not exist")
        case NotADirectoryError() | IsADirectoryError():
            return InvalidInput(f"cannot read {path}: {reason}")
        case PermissionError():
            return Forbidden(f"cannot read {path}: {reason}")
    if exc.errno in (errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidInput(f"cannot read {path}: {reason}")
    return Unavailable(f"cannot read {path}: {reason}")


def write_fault(exc: OSError, path: Path) -> Error:
    """A failure to write what the user asked for, as one of our errors."""
    reason = exc.strerror or str(exc)
    if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
        return Forbidden(f"cannot write {path}: {reason}")
    if isinstance(exc, NotADirectoryError | FileNotFoundError) or exc.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidInput(f"cannot write {path}: {reason}")
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        free_bytes = shutil.disk_usage(there).free
        return Exhausted(f"cannot write {path}: {reason}, {free_bytes} bytes are free on its volume; see `image prune`")
    return Unavailable(f"cannot write {path}: {reason}")
