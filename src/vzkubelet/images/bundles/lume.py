"""lume: ``~/.lume/NAME`` with ``config.json``, ``disk.img`` and ``nvram.bin`` (github.com/trycua/cua, libs/lume)."""

import re
from pathlib import Path

import msgspec

from vzkubelet.errors import Conflict, Unsupported, clip
from vzkubelet.images.bundles import ecid
from vzkubelet.images.bundles.bundle import Bundle, checked_hints, decode_json, document, member
from vzkubelet.images.formats.artifact import Display, Machine

DOCUMENT = "config.json"
DISK = "disk.img"
AUX = "nvram.bin"
_PROVISIONING = ".provisioning"
_SYSTEMS = {"macos": "darwin", "linux": "linux"}
_RESOLUTION = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", re.ASCII)


class Document(msgspec.Struct, frozen=True, rename="camel"):
    os: str
    cpu_count: int | None = None
    memory_size: int | None = None
    mac_address: str | None = None
    display: str = ""
    hardware_model: bytes | None = None
    machine_identifier: bytes | None = None


def read(directory: Path) -> Bundle:
    """Raises: NotFound, InvalidInput, Unsupported, Conflict (being set up), Forbidden, Unavailable."""
    path = directory / DOCUMENT
    described = decode_json(document(directory, DOCUMENT), Document, path)
    system = _SYSTEMS.get(described.os.lower())
    if system is None:
        raise Unsupported(f"{path}: the guest {clip(described.os)} is neither macOS nor linux")
    if (directory / _PROVISIONING).exists():
        raise Conflict(f"{directory} is still being set up by lume: wait for its end, or delete it and create it anew")
    disk, aux = member(directory, DISK, of=DOCUMENT), member(directory, AUX, of=DOCUMENT)
    machine_id = described.machine_identifier or b""
    if system == "darwin" and not machine_id:
        machine_id = ecid.machine_id(aux)
    resolution = _RESOLUTION.fullmatch(described.display)
    machine = Machine(
        os=system,
        architecture="arm64",
        hardware_model=described.hardware_model or b"",
        machine_id=machine_id,
        cpu_count=described.cpu_count or 0,
        memory_bytes=described.memory_size or 0,
        mac_address=described.mac_address or "",
        display=None if resolution is None else Display(int(resolution[1]), int(resolution[2])),
    )
    return Bundle("lume", directory, checked_hints(machine, path), disk, aux)
