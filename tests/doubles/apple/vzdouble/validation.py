"""What makes the framework refuse a configuration, in words."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .attachments import check_disk_image
from .describing import class_of, describe_nic, describe_shares, items, kind_of
from .host import Settings, current_host
from .identity import hardware_model_of
from .objects import Failed
from .shares import share_fault, tag_fault

MIB = 1024 * 1024
_LONGEST_IDENTIFIER_BYTES = 20
_MTU = range(1500, 65536)
VIRTUALIZATION = "com.apple.security.virtualization"
NETWORKING = "com.apple.vm.networking"


def validation_faults(configuration: Any) -> list[str]:
    """Why it is not valid, in the order in which the framework looks."""
    return [fault for fault in _all_faults(configuration) if fault]


def _all_faults(configuration: Any) -> Iterator[str]:
    settings = current_host().settings()
    if VIRTUALIZATION not in settings.entitlements:
        yield f'The process doesn’t have the "{VIRTUALIZATION}" entitlement.'
    if not settings.supported:
        yield "Virtualization is not available on this hardware."
    yield from _resources(configuration, settings)
    yield from _platform(configuration, settings)
    yield from _storage(configuration)
    yield from _networks(configuration, settings)
    yield from _shares(configuration)
    yield from _devices(configuration)


def _resources(configuration: Any, settings: Settings) -> Iterator[str]:
    cpus, memory, limits = configuration._values["CPUCount"], configuration._values["memorySize"], settings.limits
    if not limits.minimum_cpus <= cpus <= limits.cpus:
        yield f"The number of CPUs ({cpus}) is not between {limits.minimum_cpus} and {limits.cpus}."
    if memory % MIB:
        yield f"The memory size ({memory}) is not a multiple of 1 MiB."
    if not limits.minimum_memory_bytes <= memory <= limits.memory_bytes:
        yield f"The memory size ({memory}) is not between {limits.minimum_memory_bytes} and {limits.memory_bytes}."


def _platform(configuration: Any, settings: Settings) -> Iterator[str]:
    loader, platform = configuration._values.get("bootLoader"), configuration._values.get("platform")
    kind = kind_of(configuration)
    if kind is None:
        yield "The boot loader is not set."
        return
    is_mac_platform = class_of(platform) == "VZMacPlatformConfiguration"
    if is_mac_platform != (kind == "macos"):
        yield "The boot loader and the platform do not go together."
        return
    match kind:
        case "macos":
            yield from _mac_platform(platform._values, configuration)
        case "linux-efi":
            store = loader._values.get("variableStore")
            if store is None:
                yield "The EFI boot loader has no variable store."
            elif not os.access(str(store._values["URL"].path()), os.R_OK | os.W_OK):
                yield "The EFI variable store cannot be opened."
        case "linux-kernel":
            for url in (loader._values["kernelURL"], loader._values.get("initialRamdiskURL")):
                if url is not None and not os.access(str(url.path()), os.R_OK):
                    yield f"The boot loader is invalid. {url.path()} cannot be opened."
    if platform is not None and platform._values.get("isNestedVirtualizationEnabled") and not settings.nested:
        yield "Nested virtualization is not supported on this host."


def _mac_platform(values: dict[str, Any], configuration: Any) -> Iterator[str]:
    model, storage = values.get("hardwareModel"), values.get("auxiliaryStorage")
    if model is None:
        yield "The platform has no hardware model."
    elif not model.isSupported():
        yield "The hardware model is not supported on this host."
    if storage is None:
        yield "The platform has no auxiliary storage."
    else:
        path = Path(str(storage._values["URL"].path()))
        if not os.access(path, os.R_OK | os.W_OK):
            yield "Failed to open auxiliary storage."
        elif model is not None and hardware_model_of(path) not in (None, model._data):
            yield "The auxiliary storage was not created with this hardware model."
    graphics = items(configuration, "graphicsDevices")
    displays = [display for device in graphics for display in items(device, "displays")]
    if len(graphics) != 1 or class_of(graphics[0]) != "VZMacGraphicsDeviceConfiguration" or len(displays) != 1:
        yield "A macOS guest needs one graphics device with exactly one display."
    if not items(configuration, "storageDevices"):
        yield "A macOS guest needs a storage device."


def _storage(configuration: Any) -> Iterator[str]:
    identifiers = []
    for device in items(configuration, "storageDevices"):
        attachment = device._values["attachment"]
        if class_of(attachment) == "VZDiskImageStorageDeviceAttachment":
            try:
                check_disk_image(attachment._values["URL"], read_only=attachment._values["isReadOnly"])
            except Failed as failure:
                yield f"The storage device attachment is invalid. {failure.reason}"
        identifier = str(device._values.get("blockDeviceIdentifier", ""))
        yield identifier_fault(identifier)
        identifiers += [identifier] if identifier else []
    if len(set(identifiers)) < len(identifiers):
        yield "Block device identifiers must be unique."


def identifier_fault(identifier: str) -> str:
    if identifier.isascii() and len(identifier) <= _LONGEST_IDENTIFIER_BYTES:
        return ""
    return f"The block device identifier {identifier!r} is not at most {_LONGEST_IDENTIFIER_BYTES} ASCII characters."


def _networks(configuration: Any, settings: Settings) -> Iterator[str]:
    addresses = []
    for device in items(configuration, "networkDevices"):
        nic = describe_nic(device)
        addresses.append(nic.mac)
        if not device.MACAddress().isUnicastAddress():
            yield f"The MAC address {nic.mac} is not a unicast address."
        if nic.kind == "bridged" and not settings.root and NETWORKING not in settings.entitlements:
            yield f'A bridged network device attachment needs the "{NETWORKING}" entitlement.'
        if nic.mtu not in _MTU:
            yield f"The maximum transmission unit {nic.mtu} is not between 1500 and 65535."
        if nic.kind == "file-handle" and nic.descriptor is None:
            yield "The file handle of a network device attachment is closed."
    if len(set(addresses)) < len(addresses):
        yield "The MAC addresses of network devices must be unique."


def _shares(configuration: Any) -> Iterator[str]:
    shares = describe_shares(configuration)
    for share in shares:
        yield tag_fault(share.tag)
        yield share_fault(share)
    if len({share.tag for share in shares}) < len(shares):
        yield "The tags of directory sharing devices must be unique."


def _devices(configuration: Any) -> Iterator[str]:
    for getter in ("memoryBalloonDevices", "socketDevices", "entropyDevices"):
        if len(items(configuration, getter)) > 1:
            yield f"At most one element of {getter} is supported."
    for device in items(configuration, "consoleDevices"):
        for port in device.ports()._ports.values():
            attachment = port._values.get("attachment")
            if class_of(attachment) == "VZSpiceAgentPortAttachment" and port._values.get("isConsole"):
                yield "A port with a SPICE agent must not be a console."
    for sound in items(configuration, "audioDevices"):
        if not items(sound, "streams"):
            yield "A sound device needs a stream."


_NOT_SAVABLE = {
    "keyboards": ("VZUSBKeyboardConfiguration",),
    "pointingDevices": ("VZUSBScreenCoordinatePointingDeviceConfiguration",),
    "entropyDevices": ("VZVirtioEntropyDeviceConfiguration",),
}


def save_restore_faults(configuration: Any) -> list[str]:
    """Devices that cannot be saved, for macOS guests (as tart's suspendable machines avoid them)."""
    if kind_of(configuration) != "macos":
        return []
    faults = [
        f"{class_of(device)} does not support saving and restoring."
        for getter, names in _NOT_SAVABLE.items()
        for device in items(configuration, getter)
        if class_of(device) in names
    ]
    streams = [stream for sound in items(configuration, "audioDevices") for stream in items(sound, "streams")]
    if any(stream._values.get("sink") is not None or stream._values.get("source") is not None for stream in streams):
        faults.append("A sound stream of the host does not support saving and restoring.")
    return faults
