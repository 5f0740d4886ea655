"""VirtualBuddy: a ``.vbvm`` bundle; boot data in files of their own, the rest in ``.vbdata/Config.plist``.

Source: github.com/insidegui/VirtualBuddy, VirtualCore/Source/Models.
"""

from pathlib import Path
from typing import Any

import msgspec

from vzkubelet.errors import Conflict, InvalidInput, NotFound, Unsupported
from vzkubelet.images.bundles import ecid
from vzkubelet.images.bundles.bundle import Bundle, checked_hints, decode_plist, document, member
from vzkubelet.images.formats.artifact import Display, Machine

AUX = "AuxiliaryStorage"
_MODEL = "HardwareModel"
_IDENTIFIER = "MachineIdentifier"
CONFIGURATION = ".vbdata/Config.plist"
_LINUX_VARIABLES = ".vbdata/nvram"
_SAVED_SESSIONS = ("SavedSession", "SavedSession-transaction")
_DEFAULT_DISK = "Disk.img"
_EXTENSIONS = ("img", "dmg", "sparseimage", "asif")
"""By the number that the configuration keeps."""


class Image(msgspec.Struct, frozen=True):
    filename: str = ""
    format: int = 0


class Device(msgspec.Struct, frozen=True, rename="camel"):
    is_boot_volume: bool = False
    backing: dict[str, Any] = msgspec.field(default_factory=dict)
    """``managedImage`` or ``customImage``, as Swift writes an enumeration: the value is under ``_0``."""


class Screen(msgspec.Struct, frozen=True):
    width: int = 0
    height: int = 0


class Network(msgspec.Struct, frozen=True, rename="camel"):
    mac_address: str = ""


class Hardware(msgspec.Struct, frozen=True, rename="camel"):
    cpu_count: int = 0
    memory_size: int = 0
    display_devices: tuple[Screen, ...] = ()
    network_devices: tuple[Network, ...] = ()
    devices: tuple[Device, ...] | None = msgspec.field(default=None, name="_storageDevices")
    devices_too: tuple[Device, ...] | None = msgspec.field(default=None, name="storageDevices")


class Configuration(msgspec.Struct, frozen=True, rename="camel"):
    system_type: str = "mac"
    hardware: Hardware = msgspec.field(default_factory=Hardware)


def read(directory: Path) -> Bundle:
    """Raises: NotFound, InvalidInput, Unsupported, Conflict (a saved session), Forbidden, Unavailable."""
    path = directory / CONFIGURATION
    try:
        configuration = decode_plist(document(directory, CONFIGURATION), Configuration, path)
    except NotFound:
        configuration = Configuration()
    for name in _SAVED_SESSIONS:
        if (directory / name).exists():
            raise Conflict(f"{directory} has a saved session: resume it in VirtualBuddy and shut the guest down first")
    disk = member(directory, _disk_name(configuration.hardware, path), of=CONFIGURATION)
    hints = _hints(configuration.hardware)
    match configuration.system_type:
        case "mac":
            aux = member(directory, AUX, of=AUX)
            model = document(directory, _MODEL)
            machine = Machine("darwin", "arm64", model, _identifier(directory, aux), **hints)
        case "linux":
            aux = member(directory, _LINUX_VARIABLES, of=CONFIGURATION)
            machine = Machine("linux", "arm64", **hints)
        case _:
            raise Unsupported(f"{path}: the guest is neither macOS nor Linux")
    return Bundle("VirtualBuddy", directory, checked_hints(machine, path), disk, aux)


def _identifier(directory: Path, aux: Path) -> bytes:
    try:
        return document(directory, _IDENTIFIER)
    except NotFound:
        return ecid.machine_id(aux)


def _disk_name(hardware: Hardware, path: Path) -> str:
    devices = hardware.devices or hardware.devices_too or ()
    boot = next((device for device in devices if device.is_boot_volume), None)
    if boot is None:
        return _DEFAULT_DISK
    managed = boot.backing.get("managedImage")
    if not isinstance(managed, dict):
        raise Unsupported(f"{path}: the machine boots from a disk image outside its bundle")
    try:
        image = msgspec.convert(managed.get("_0", managed), Image)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"{path} is not as its tool writes it: the disk image of the boot volume: {exc}") from exc
    if image.format not in range(len(_EXTENSIONS)):
        raise Unsupported(f"{path}: the boot volume is a disk image of format {image.format}, which is not known here")
    return f"{image.filename}.{_EXTENSIONS[image.format]}" if image.filename else _DEFAULT_DISK


def _hints(hardware: Hardware) -> dict[str, Any]:
    screen = next((screen for screen in hardware.display_devices if screen.width and screen.height), None)
    return {
        "cpu_count": hardware.cpu_count,
        "memory_bytes": hardware.memory_size,
        "mac_address": next((device.mac_address for device in hardware.network_devices if device.mac_address), ""),
        "display": None if screen is None else Display(screen.width, screen.height, "px"),
    }
