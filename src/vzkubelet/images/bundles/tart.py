"""tart: ``~/.tart/vms/NAME`` with ``config.json``, ``disk.img`` and ``nvram.bin`` (facts of tart 2.x)."""

import secrets
from pathlib import Path

import msgspec

from vzkubelet.errors import Conflict, Unsupported, clip
from vzkubelet.images.bundles import ecid
from vzkubelet.images.bundles.bundle import Bundle, checked_hints, decode_json, document, member
from vzkubelet.images.formats import tart
from vzkubelet.images.formats.artifact import Display, Machine

DOCUMENT = "config.json"
DISK = "disk.img"
AUX = "nvram.bin"
_STATE = "state.vzvmsave"
_OVERLAY = "overlay.asif"


class Screen(msgspec.Struct, frozen=True):
    width: int = 0
    height: int = 0
    unit: str = ""


class Document(msgspec.Struct, frozen=True, rename="camel"):
    version: int
    os: str = "darwin"
    arch: str = "arm64"
    ecid: bytes = b""
    machine_identifier: bytes = b""
    """Of a Linux guest."""
    hardware_model: bytes = b""
    cpu_count_min: int = 0
    cpu_count: int = 0
    memory_size_min: int = 0
    memory_size: int = 0
    mac_address: str = ""
    display: Screen | None = None
    display_refit: bool | None = None
    disk_format: str = "raw"


def read(directory: Path) -> Bundle:
    """Raises: NotFound, InvalidInput, Unsupported, Conflict (suspended), Forbidden, Unavailable."""
    path = directory / DOCUMENT
    described = decode_json(document(directory, DOCUMENT), Document, path)
    if described.os not in ("darwin", "linux"):
        raise Unsupported(f"{path}: the guest {clip(described.os)} is neither darwin nor linux")
    if (directory / _OVERLAY).exists():
        raise Unsupported(f"{directory} is a stacked machine of tart: only DiskImageKit reads its overlay, {_OVERLAY}")
    if described.disk_format != "raw":
        raise Unsupported(f"{path}: the disk is of format {clip(described.disk_format)}, an image holds a raw one")
    if (directory / _STATE).exists():
        raise Conflict(f"{directory} is suspended: resume it with `tart run` and shut the guest down first")
    disk, aux = member(directory, DISK, of=DOCUMENT), member(directory, AUX, of=DOCUMENT)
    return Bundle("tart", directory, checked_hints(_machine(described, aux), path), disk, aux)


def _machine(described: Document, aux: Path) -> Machine:
    is_mac = described.os == "darwin"
    machine_id = (described.ecid or ecid.machine_id(aux)) if is_mac else described.machine_identifier
    screen = described.display
    return Machine(
        os=described.os,
        architecture=described.arch,
        hardware_model=described.hardware_model,
        machine_id=machine_id,
        cpu_min=described.cpu_count_min,
        memory_min_bytes=described.memory_size_min,
        cpu_count=described.cpu_count,
        memory_bytes=described.memory_size,
        mac_address=described.mac_address,
        display=None if screen is None else Display(screen.width, screen.height, screen.unit),
        display_refit=described.display_refit,
    )


def describe(machine: Machine) -> bytes:
    """``config.json``. What tart requires and the image does not say is chosen; the MAC address then is a new one."""
    return msgspec.json.format(tart.write_config(machine, machine.mac_address or _new_mac_address()), indent=2) + b"\n"


def _new_mac_address() -> str:
    """Locally administered, of one station (IEEE 802: the two low bits of the first octet are 10)."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{octet:02x}" for octet in ((first & 0xFC) | 0x02, *rest))
