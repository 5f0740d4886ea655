"""Directories with ``config.json`` of the agoda format, as ``image create`` and ``oras-macos-vz pull`` leave them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from vzkubelet.errors import InvalidInput, NotFound
from vzkubelet.images.bundles import ecid, macosvm
from vzkubelet.images.bundles.bundle import Bundle, checked_hints, decode_json, document, member
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.artifact import Machine

DOCUMENT = "config.json"


class Storage(msgspec.Struct, frozen=True):
    mediatype: str
    file: str


class Document(msgspec.Struct, frozen=True, rename="camel"):
    hardware_model_data: bytes = b""
    machine_id_data: bytes = b""
    os: Literal["darwin", "linux"] = "darwin"
    cpu_min: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_min_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    storage: tuple[Storage, ...] = ()
    """Empty where another tool wrote none: the files are then called as ours are."""


def read(directory: Path) -> Bundle:
    """Raises: NotFound, InvalidInput, Forbidden, Unavailable."""
    path = directory / DOCUMENT
    described = decode_json(document(directory, DOCUMENT), Document, path)
    disk = _file(described, agoda.DISK, agoda.DISK_TITLE, directory)
    aux = _file(described, agoda.AUX, agoda.AUX_TITLE, directory)
    machine = Machine(
        os=described.os,
        architecture="arm64",
        hardware_model=described.hardware_model_data,
        machine_id=described.machine_id_data,
        cpu_min=described.cpu_min,
        memory_min_bytes=described.memory_min_bytes,
    )
    if described.os == "darwin" and not machine.machine_id:
        machine = replace(machine, machine_id=ecid.machine_id(aux))
    return Bundle("agoda", directory, checked_hints(_with_hints(machine, directory), path), disk, aux)


def _with_hints(machine: Machine, directory: Path) -> Machine:
    """With what ``vm.json`` beside it says; ``image create`` writes one for macosvm."""
    path = directory / macosvm.DOCUMENT
    try:
        described = decode_json(document(directory, macosvm.DOCUMENT), macosvm.Document, path)
    except NotFound:
        return machine
    hints = macosvm.machine(described, path, b"")
    return replace(
        machine,
        cpu_count=hints.cpu_count,
        memory_bytes=hints.memory_bytes,
        mac_address=hints.mac_address,
        display=hints.display,
    )


def _file(described: Document, media_type: str, default: str, directory: Path) -> Path:
    named = [entry.file for entry in described.storage if entry.mediatype == media_type]
    if not described.storage:
        named = [default]
    if len(named) != 1:
        raise InvalidInput(f"{directory / DOCUMENT}: storage names {len(named)} files of type {media_type}, not one")
    return member(directory, named[0], of=DOCUMENT)
