"""VZVirtualMachineConfiguration and those parts of it that are more than properties."""

from typing import Any

from .errors import INVALID_CONFIGURATION
from .generation import behaviour
from .host import current_host
from .objects import CLASSES, Failed, Nil, construct, invalid_argument
from .validation import identifier_fault, save_restore_faults, validation_faults

MIB = 1024 * 1024


@behaviour("VZVirtualMachineConfiguration")
class _Configuration:
    def init(self: Any) -> None:
        self._values |= {"CPUCount": 1, "memorySize": 256 * MIB}

    @classmethod
    def minimumAllowedCPUCount(cls: Any) -> int:
        return current_host().settings().limits.minimum_cpus

    @classmethod
    def maximumAllowedCPUCount(cls: Any) -> int:
        return current_host().settings().limits.cpus

    @classmethod
    def minimumAllowedMemorySize(cls: Any) -> int:
        return current_host().settings().limits.minimum_memory_bytes

    @classmethod
    def maximumAllowedMemorySize(cls: Any) -> int:
        return current_host().settings().limits.memory_bytes

    def validateWithError_(self: Any) -> None:
        raise_first(validation_faults(self))

    def validateSaveRestoreSupportWithError_(self: Any) -> None:
        raise_first(validation_faults(self) or save_restore_faults(self))


def raise_first(faults: list[str]) -> None:
    if faults:
        raise Failed(INVALID_CONFIGURATION, f"Invalid virtual machine configuration. {faults[0]}")


@behaviour("VZVirtioBlockDeviceConfiguration", "VZNVMExpressControllerDeviceConfiguration")
@behaviour("VZUSBMassStorageDeviceConfiguration")
class _Storage:
    def initWithAttachment_(self: Any, attachment: Any) -> None:
        self._values["attachment"] = attachment


@behaviour("VZVirtioBlockDeviceConfiguration")
class _Block:
    def init(self: Any) -> None:
        self._values["blockDeviceIdentifier"] = ""

    def setBlockDeviceIdentifier_(self: Any, identifier: str) -> None:
        self._values["blockDeviceIdentifier"] = str(identifier)

    def blockDeviceIdentifier(self: Any) -> str:
        return str(self._values.get("blockDeviceIdentifier", ""))

    @classmethod
    def validateBlockDeviceIdentifier_error_(cls: Any, identifier: str) -> None:
        fault = identifier_fault(identifier)
        if fault:
            raise Failed(INVALID_CONFIGURATION, fault)


@behaviour("VZNetworkDeviceConfiguration")
class _Network:
    """Each configuration has a random address until it is given one."""

    def MACAddress(self: Any) -> Any:
        if "MACAddress" not in self._values:
            self._values["MACAddress"] = CLASSES["VZMACAddress"].randomLocallyAdministeredAddress()
        return self._values["MACAddress"]


@behaviour("VZLinuxBootLoader")
class _LinuxBootLoader:
    def initWithKernelURL_(self: Any, url: Any) -> None:
        self._values |= {"kernelURL": url, "commandLine": ""}


@behaviour("VZGenericPlatformConfiguration")
class _GenericPlatform:
    @classmethod
    def isNestedVirtualizationSupported(cls: Any) -> bool:
        return current_host().settings().nested

    def setNestedVirtualizationEnabled_(self: Any, enabled: bool) -> None:
        self._values["isNestedVirtualizationEnabled"] = enabled

    def machineIdentifier(self: Any) -> Any:
        """Each platform has an identifier of its own until it is given one."""
        if "machineIdentifier" not in self._values:
            self._values["machineIdentifier"] = CLASSES["VZGenericMachineIdentifier"].new()
        return self._values["machineIdentifier"]


@behaviour("VZMacPlatformConfiguration")
class _MacPlatform:
    def machineIdentifier(self: Any) -> Any:
        if "machineIdentifier" not in self._values:
            self._values["machineIdentifier"] = CLASSES["VZMacMachineIdentifier"].new()
        return self._values["machineIdentifier"]


@behaviour("VZMacGraphicsDisplayConfiguration")
class _MacDisplay:
    def initWithWidthInPixels_heightInPixels_pixelsPerInch_(self: Any, width: int, height: int, density: int) -> None:
        self._values |= {"widthInPixels": width, "heightInPixels": height, "pixelsPerInch": density}


@behaviour("VZVirtioGraphicsScanoutConfiguration")
class _Scanout:
    def initWithWidthInPixels_heightInPixels_(self: Any, width: int, height: int) -> None:
        self._values |= {"widthInPixels": width, "heightInPixels": height}


@behaviour("VZVirtioConsoleDeviceConfiguration")
class _Console:
    def ports(self: Any) -> Any:
        if "ports" not in self._values:
            self._values["ports"] = construct("VZVirtioConsolePortConfigurationArray", _ports={})
        return self._values["ports"]


@behaviour("VZVirtioConsolePortConfigurationArray")
class _ConsolePorts:
    _maximum: int = 31

    def setObject_atIndexedSubscript_(self: Any, port: Any, index: int) -> None:
        if self._is_frozen or index >= self._maximum:
            raise invalid_argument(f"port {index} of a console device with {self._maximum}")
        if port is None:
            self._ports.pop(index, None)
        else:
            self._ports[index] = port

    def objectAtIndexedSubscript_(self: Any, index: int) -> Any:
        if index not in self._ports:
            raise Nil
        return self._ports[index]

    def maximumPortCount(self: Any) -> int:
        return int(self._maximum)

    def setMaximumPortCount_(self: Any, count: int) -> None:
        self._maximum = count


def freeze(part: Any) -> None:
    """A VM was made from this: setting anything in it is a mistake from now on. Attachments stay alive."""
    if not type(part).__name__.endswith(("Configuration", "BootLoader", "ConfigurationArray")):
        return
    part.__dict__["_is_frozen"] = True
    for value in (*part._values.values(), *getattr(part, "_ports", {}).values()):
        for item in getattr(value, "_items", (value,)):
            if hasattr(item, "_values"):
                freeze(item)
