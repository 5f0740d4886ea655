"""A configuration as the plain data that backings are told. Made when a VM is: the copy that the framework takes."""

from typing import Any

from .attachments import descriptor_of
from .description import Boot, Disk, DiskBus, Display, GuestDescription, GuestKind, Nic, SerialPort, Share
from .shares import describe_share

_BUSES: dict[str, DiskBus] = {
    "VZVirtioBlockDeviceConfiguration": "virtio",
    "VZNVMExpressControllerDeviceConfiguration": "nvme",
    "VZUSBMassStorageDeviceConfiguration": "usb",
}
_KINDS: dict[str, GuestKind] = {
    "VZMacOSBootLoader": "macos",
    "VZEFIBootLoader": "linux-efi",
    "VZLinuxBootLoader": "linux-kernel",
}


def items(configuration: Any, getter: str) -> tuple[Any, ...]:
    """The elements of an array property."""
    found = configuration._values.get(getter)
    return found._items if found is not None else ()


def class_of(part: Any) -> str:
    return "" if part is None else type(part).__name__


def kind_of(configuration: Any) -> GuestKind | None:
    return _KINDS.get(class_of(configuration._values.get("bootLoader")))


def describe(configuration: Any) -> GuestDescription:
    """A valid configuration."""
    kind = kind_of(configuration)
    assert kind is not None
    platform = configuration._values.get("platform")
    streams = [stream for sound in items(configuration, "audioDevices") for stream in items(sound, "streams")]
    consoles = items(configuration, "consoleDevices")
    return GuestDescription(
        kind=kind,
        cpus=configuration._values["CPUCount"],
        memory_bytes=configuration._values["memorySize"],
        boot=_boot(configuration._values["bootLoader"], platform),
        disks=tuple(describe_disk(device) for device in items(configuration, "storageDevices")),
        nics=tuple(describe_nic(device) for device in items(configuration, "networkDevices")),
        shares=describe_shares(configuration),
        serial_ports=tuple(_serial(port) for port in items(configuration, "serialPorts")),
        displays=tuple(_displays(configuration)),
        keyboards=tuple(class_of(device) for device in items(configuration, "keyboards")),
        pointing_devices=tuple(class_of(device) for device in items(configuration, "pointingDevices")),
        audio_streams=tuple(class_of(stream) for stream in streams),
        console_ports=tuple(
            str(port.name() or "") for device in consoles for _, port in sorted(device.ports()._ports.items())
        ),
        entropy=bool(items(configuration, "entropyDevices")),
        balloon=bool(items(configuration, "memoryBalloonDevices")),
        vsock=bool(items(configuration, "socketDevices")),
        nested=bool(platform is not None and platform._values.get("isNestedVirtualizationEnabled", False)),
        hardware_model=platform._values["hardwareModel"]._data.hex() if kind == "macos" else "",
        machine_id=platform.machineIdentifier()._data.hex() if platform is not None else "",
    )


def describe_shares(configuration: Any) -> tuple[Share, ...]:
    devices = items(configuration, "directorySharingDevices")
    return tuple(describe_share(str(device._values["tag"]), device._values.get("share")) for device in devices)


def describe_disk(device: Any) -> Disk:
    attachment = device._values["attachment"]
    values = attachment._values
    bus = _BUSES[class_of(device)]
    identifier = str(device._values.get("blockDeviceIdentifier", ""))
    match class_of(attachment):
        case "VZDiskImageStorageDeviceAttachment":
            return Disk(
                path=str(values["URL"].path()),
                read_only=values["isReadOnly"],
                bus=bus,
                caching=values["cachingMode"],
                synchronization=values["synchronizationMode"],
                identifier=identifier,
            )
        case "VZDiskBlockDeviceStorageDeviceAttachment":
            descriptor = descriptor_of(attachment, "fileHandle")
            return Disk("", values["isReadOnly"], bus, identifier=identifier, descriptor=descriptor)
        case _:
            url = str(values["URL"].absoluteString())
            return Disk("", values["isForcedReadOnly"], bus, identifier=identifier, url=url)


def describe_nic(device: Any) -> Nic:
    """A network device's configuration."""
    return nic_of(str(device.MACAddress().string()), device._values.get("attachment"))


def nic_of(mac: str, attachment: Any) -> Nic:
    match class_of(attachment):
        case "VZNATNetworkDeviceAttachment":
            return Nic(mac, "nat")
        case "VZBridgedNetworkDeviceAttachment":
            return Nic(mac, "bridged", interface=str(attachment._values["interface"]._identifier))
        case "VZVmnetNetworkDeviceAttachment":
            return Nic(mac, "vmnet")
        case "VZFileHandleNetworkDeviceAttachment":
            mtu = attachment._values["maximumTransmissionUnit"]
            return Nic(mac, "file-handle", descriptor=descriptor_of(attachment, "fileHandle"), mtu=mtu)
        case _:
            return Nic(mac, "none")


def _boot(loader: Any, platform: Any) -> Boot:
    values = loader._values
    match class_of(loader):
        case "VZMacOSBootLoader":
            return Boot(auxiliary_storage=str(platform._values["auxiliaryStorage"]._values["URL"].path()))
        case "VZEFIBootLoader":
            return Boot(variable_store=str(values["variableStore"]._values["URL"].path()))
        case _:
            ramdisk = values.get("initialRamdiskURL")
            return Boot(
                kernel=str(values["kernelURL"].path()),
                initial_ramdisk=str(ramdisk.path()) if ramdisk is not None else "",
                command_line=str(values.get("commandLine") or ""),
            )


def _serial(port: Any) -> SerialPort:
    attachment = port._values.get("attachment")
    match class_of(attachment):
        case "VZFileSerialPortAttachment":
            return SerialPort(path=str(attachment._values["URL"].path()), append=attachment._values["append"])
        case "VZFileHandleSerialPortAttachment":
            return SerialPort(
                read_descriptor=descriptor_of(attachment, "fileHandleForReading"),
                write_descriptor=descriptor_of(attachment, "fileHandleForWriting"),
            )
        case _:
            return SerialPort()


def _displays(configuration: Any) -> list[Display]:
    found = []
    for device in items(configuration, "graphicsDevices"):
        for display in (*items(device, "displays"), *items(device, "scanouts")):
            values = display._values
            density = values.get("pixelsPerInch", 0)
            found.append(Display(values["widthInPixels"], values["heightInPixels"], density))
    return found
