"""Virtual machines as other tools keep them on a disk, made from the facts about their formats."""

import base64
import json
import plistlib
import random
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
HARDWARE_MODEL = plistlib.dumps({"DataRepresentationVersion": 1, "PlatformVersion": 2}, fmt=plistlib.FMT_BINARY)
ECID = 0x1234_5678_9ABC
MACHINE_ID = plistlib.dumps({"ECID": ECID}, fmt=plistlib.FMT_BINARY)
MAC_ADDRESS = "5a:94:ef:01:02:03"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def disk(path: Path, seed: int = 1) -> Path:
    """8 MiB: noise at both ends, a hole between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        file.write(noise.randbytes(MIB))
        file.seek(7 * MIB + 4096)
        file.write(noise.randbytes(4096))
    return path


def aux(path: Path, seed: int = 2, *, ecid: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = random.Random(seed).randbytes(300_000)
    found = b"" if ecid is None else b"\x04ECID\x02\x08" + ecid.to_bytes(8, "big")
    path.write_bytes(content[:200_000] + found + content[200_000:])
    return path


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_plist(path: Path, document: dict[str, Any], form: plistlib.PlistFormat = plistlib.FMT_XML) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plistlib.dumps(document, fmt=form))


def macosvm(directory: Path, **changes: Any) -> Path:
    disk(directory / "disk.img")
    aux(directory / "aux.img", ecid=ECID)
    document = {
        "version": 1,
        "os": "macos",
        "cpus": 6,
        "ram": 12 * 1024 * MIB,
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "machineId": base64_of(MACHINE_ID),
        "storage": [{"type": "disk", "file": "disk.img"}, {"type": "aux", "file": "aux.img"}],
        "displays": [{"width": 1920, "height": 1200, "dpi": 144}],
        "networks": [{"type": "nat", "mac": MAC_ADDRESS}],
        "audio": False,
    }
    write_json(directory / "vm.json", document | changes)
    return directory


def created(directory: Path, **changes: Any) -> Path:
    """As `image create` leaves it."""
    macosvm(directory)
    media_type = "application/vnd.agoda.macosvz.{}.v1"
    document = {
        "storage": [
            {"mediatype": media_type.format("aux.image"), "file": "aux.img"},
            {"mediatype": media_type.format("disk.image"), "file": "disk.img"},
        ],
        "mediatype": media_type.format("config") + "+json",
        "os": "darwin",
        "hardwareModelData": base64_of(HARDWARE_MODEL),
        "machineIdData": base64_of(MACHINE_ID),
        "cpuMin": 2,
        "memoryMinBytes": 4 * 1024 * MIB,
    }
    write_json(directory / "config.json", document | changes)
    return directory


def tart(directory: Path, **changes: Any) -> Path:
    disk(directory / "disk.img")
    aux(directory / "nvram.bin")
    document = {
        "version": 1,
        "os": "darwin",
        "arch": "arm64",
        "ecid": base64_of(MACHINE_ID),
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "cpuCountMin": 4,
        "cpuCount": 6,
        "memorySizeMin": 4 * 1024 * MIB,
        "memorySize": 12 * 1024 * MIB,
        "macAddress": MAC_ADDRESS,
        "display": {"width": 1920, "height": 1200, "unit": "px"},
        "displayRefit": True,
    }
    write_json(directory / "config.json", document | changes)
    return directory


def lume(directory: Path, **changes: Any) -> Path:
    disk(directory / "disk.img")
    aux(directory / "nvram.bin")
    document = {
        "os": "macOS",
        "cpuCount": 6,
        "memorySize": 12 * 1024 * MIB,
        "diskSize": 8 * MIB,
        "macAddress": MAC_ADDRESS,
        "display": "1920x1200",
        "hardwareModel": base64_of(HARDWARE_MODEL),
        "machineIdentifier": base64_of(MACHINE_ID),
        "networkMode": "nat",
    }
    write_json(directory / "config.json", document | changes)
    return directory


def utm(directory: Path, *, system: dict[str, Any] | None = None, **changes: Any) -> Path:
    data = directory / "Data"
    disk(data / "0F4B.img")
    aux(data / "AuxiliaryStorage")
    document = {
        "Backend": "Apple",
        "ConfigurationVersion": 4,
        "Information": {"Name": "vm", "IconCustom": False, "UUID": "6C0B8A9C-95A0-4B0E-8E0B-2D7D9A4C1B11"},
        "System": {
            "Architecture": "aarch64",
            "CPUCount": 6,
            "MemorySize": 12 * 1024,
            "Boot": {"OperatingSystem": "macOS", "UEFIBoot": False},
            "MacPlatform": {
                "HardwareModel": HARDWARE_MODEL,
                "MachineIdentifier": MACHINE_ID,
                "AuxiliaryStoragePath": "AuxiliaryStorage",
            },
            **(system or {}),
        },
        "Display": [{"WidthPixels": 1920, "HeightPixels": 1200, "PixelsPerInch": 80}],
        "Drive": [
            {"Identifier": "0F4B", "ImageName": "0F4B.img", "ReadOnly": False, "Nvme": False},
            {"Identifier": "CD", "ReadOnly": True},
        ],
        "Network": [{"Mode": "Shared", "MacAddress": MAC_ADDRESS}],
        "Serial": [],
    }
    write_plist(directory / "config.plist", document | changes)
    return directory


def utm_linux(directory: Path) -> Path:
    """Of the Apple backend."""
    boot = {"OperatingSystem": "Linux", "UEFIBoot": True, "EfiVariableStoragePath": "efi_vars.fd"}
    aux(directory / "Data" / "efi_vars.fd")
    return utm(
        directory, system={"Boot": boot, "MacPlatform": {}, "GenericPlatform": {"machineIdentifier": b"generic"}}
    )


def utm_qemu(directory: Path, qemu: dict[str, Any] | None = None) -> Path:
    aux(directory / "Data" / "efi_vars.fd")
    return utm(
        directory,
        system={"Architecture": "x86_64", "Boot": {}},
        Backend="QEMU",
        QEMU={"UEFIBoot": True, "DebugLog": False} if qemu is None else qemu,
        Drive=[
            {"Identifier": "CD", "ImageType": "CD", "Interface": "USB", "ReadOnly": True},
            {"Identifier": "0F4B", "ImageName": "0F4B.img", "ImageType": "Disk", "Interface": "VirtIO"},
        ],
    )


def virtualbuddy(directory: Path, **changes: Any) -> Path:
    disk(directory / "Disk.img")
    aux(directory / "AuxiliaryStorage")
    (directory / "HardwareModel").write_bytes(HARDWARE_MODEL)
    (directory / "MachineIdentifier").write_bytes(MACHINE_ID)
    managed = {"managedImage": {"_0": {"id": "__BOOT__", "filename": "Disk", "size": 8 * MIB, "format": 0}}}
    document = {
        "version": 0,
        "systemType": "mac",
        "hardware": {
            "cpuCount": 6,
            "memorySize": 12 * 1024 * MIB,
            "displayDevices": [{"width": 1920, "height": 1200, "pixelsPerInch": 144}],
            "networkDevices": [{"id": "Default", "kind": 0, "macAddress": MAC_ADDRESS}],
            "_storageDevices": [{"id": "1", "isBootVolume": True, "isReadOnly": False, "backing": managed}],
        },
        "sharedFolders": [],
    }
    write_plist(directory / ".vbdata" / "Config.plist", document | changes, plistlib.FMT_BINARY)
    return directory


MAC_BUNDLES = {
    "macosvm": macosvm,
    "agoda": created,
    "tart": tart,
    "lume": lume,
    "UTM": utm,
    "VirtualBuddy": virtualbuddy,
}
"""Makers of bundles of a macOS guest, by the name the reader gives them."""
