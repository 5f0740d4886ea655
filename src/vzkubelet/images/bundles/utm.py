"""UTM: a ``.utm`` bundle with ``config.plist`` and its files in ``Data`` (github.com/utmapp/UTM, Configuration)."""

from pathlib import Path
from typing import Any

import msgspec

from vzkubelet.errors import Conflict, InvalidInput, NotFound, Unsupported, clip
from vzkubelet.images.bundles import disks, ecid, qcow2
from vzkubelet.images.bundles.bundle import MIB, Bundle, DiskFormat, checked_hints, decode_plist, document, member
from vzkubelet.images.formats.artifact import Display, Machine

DOCUMENT = "config.plist"
_DATA = "Data"
_SUPPORTED_VERSION = 4
_QEMU_VARIABLES = "efi_vars.fd"
_SUSPENDED = "vmstate"
_SUSPENDED_SNAPSHOT = "suspend"
"""Of a QEMU guest: UTM keeps its memory as a snapshot inside the disk."""
_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}


class MacPlatform(msgspec.Struct, frozen=True, rename="pascal"):
    hardware_model: bytes = b""
    machine_identifier: bytes = b""
    auxiliary_storage_path: str = ""


class GenericPlatform(msgspec.Struct, frozen=True, rename="camel"):
    machine_identifier: bytes = b""


class Boot(msgspec.Struct, frozen=True):
    system: str = msgspec.field(default="None", name="OperatingSystem")
    uefi: bool = msgspec.field(default=False, name="UEFIBoot")
    variables: str = msgspec.field(default="", name="EfiVariableStoragePath")


class System(msgspec.Struct, frozen=True):
    architecture: str = msgspec.field(default="aarch64", name="Architecture")
    cpus: int = msgspec.field(default=0, name="CPUCount")
    memory_mib: int = msgspec.field(default=0, name="MemorySize")
    boot: Boot = msgspec.field(default_factory=Boot, name="Boot")
    mac: MacPlatform | None = msgspec.field(default=None, name="MacPlatform")
    generic: GenericPlatform = msgspec.field(default_factory=GenericPlatform, name="GenericPlatform")
    """Of Linux guests."""


class Drive(msgspec.Struct, frozen=True, rename="pascal"):
    image_name: str | None = None
    image_type: str = "Disk"
    read_only: bool = False


class Network(msgspec.Struct, frozen=True, rename="pascal"):
    mac_address: str = ""


class Screen(msgspec.Struct, frozen=True, rename="pascal"):
    width_pixels: int = 0
    height_pixels: int = 0


class Qemu(msgspec.Struct, frozen=True):
    uefi: bool = msgspec.field(default=False, name="UEFIBoot")


class Document(msgspec.Struct, frozen=True):
    backend: str = msgspec.field(default="", name="Backend")
    version: int = msgspec.field(default=0, name="ConfigurationVersion")
    system: System = msgspec.field(default_factory=System, name="System")
    qemu: Qemu = msgspec.field(default_factory=Qemu, name="QEMU")
    drives: tuple[Drive, ...] = msgspec.field(default=(), name="Drive")
    networks: tuple[Network, ...] = msgspec.field(default=(), name="Network")
    displays: tuple[Screen, ...] = msgspec.field(default=(), name="Display")


def read(directory: Path) -> Bundle:
    """Raises: NotFound, InvalidInput, Unsupported, Conflict (suspended), Forbidden, Unavailable."""
    path = directory / DOCUMENT
    described = _document(directory)
    data = directory / _DATA
    if (data / _SUSPENDED).exists():
        raise _suspended(directory)
    disk = _disk(described, directory)
    format_ = disks.format_of(disk)
    if format_ is DiskFormat.QCOW2 and qcow2.has_saved_state(disk, _SUSPENDED_SNAPSHOT):
        raise _suspended(directory)
    machine, aux = _apple(described, directory) if described.backend == "Apple" else _qemu(described, directory)
    return Bundle("UTM", directory, checked_hints(machine, path), disk, aux, format_)


def _document(directory: Path) -> Document:
    path = directory / DOCUMENT
    content = document(directory, DOCUMENT)
    described = decode_plist(content, Document, path)
    if described.version != _SUPPORTED_VERSION:
        raise Unsupported(
            f"{path} is of version {described.version}, not {_SUPPORTED_VERSION}: open it once with a current UTM, "
            "which brings it up to date"
        )
    if described.backend not in ("Apple", "QEMU"):
        raise Unsupported(f"{path}: UTM has no backend {clip(described.backend)} that is known here")
    return described


def _disk(described: Document, directory: Path) -> Path:
    names = [
        drive.image_name
        for drive in described.drives
        if drive.image_name and not drive.read_only and drive.image_type == "Disk"
    ]
    if len(names) != 1:
        raise InvalidInput(f"{directory / DOCUMENT}: {len(names)} writable disks inside the bundle; an image has one")
    return _data_file(names[0], directory)


def _apple(described: Document, directory: Path) -> tuple[Machine, Path | None]:
    system = described.system
    boot = system.boot
    match boot.system:
        case "macOS":
            mac = system.mac
            if mac is None or not mac.auxiliary_storage_path:
                raise NotFound(f"{directory / DOCUMENT}: System.MacPlatform names no auxiliary storage")
            aux = _data_file(mac.auxiliary_storage_path, directory)
            identifier = mac.machine_identifier or ecid.machine_id(aux)
            hints = _hints(described)
            return Machine("darwin", "arm64", mac.hardware_model, identifier, **hints), aux
        case "Linux" if boot.uefi and boot.variables:
            return _linux(described, directory), _data_file(boot.variables, directory)
        case "Linux":
            raise Unsupported(f"{directory} boots a kernel from outside its disk, which no image holds")
        case _:
            raise Unsupported(f"{directory / DOCUMENT}: the guest {clip(boot.system)} is neither macOS nor Linux")


def _qemu(described: Document, directory: Path) -> tuple[Machine, Path | None]:
    if not described.qemu.uefi:
        raise Unsupported(f"{directory} boots by a BIOS; images are for machines with UEFI")
    return _linux(described, directory), _data_file(_QEMU_VARIABLES, directory)


def _linux(described: Document, directory: Path) -> Machine:
    architecture = _ARCHITECTURES.get(described.system.architecture)
    if architecture is None:
        known = " and ".join(_ARCHITECTURES)
        raise Unsupported(f"{directory}: a guest of architecture {clip(described.system.architecture)}, not {known}")
    return Machine("linux", architecture, machine_id=described.system.generic.machine_identifier, **_hints(described))


def _hints(described: Document) -> dict[str, Any]:
    screen = next((screen for screen in described.displays if screen.width_pixels and screen.height_pixels), None)
    return {
        "cpu_count": described.system.cpus,
        "memory_bytes": described.system.memory_mib * MIB,
        "mac_address": next((network.mac_address for network in described.networks if network.mac_address), ""),
        "display": None if screen is None else Display(screen.width_pixels, screen.height_pixels, "px"),
    }


def _data_file(name: str, directory: Path) -> Path:
    if "/" in name:
        raise InvalidInput(f'{directory / DOCUMENT} names the file "{clip(name)}", which is no plain file name')
    return member(directory, f"{_DATA}/{name}", of=DOCUMENT)


def _suspended(directory: Path) -> Conflict:
    return Conflict(f"{directory} is suspended: start it in UTM and shut the guest down first")
