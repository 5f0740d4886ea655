"""Boot loader and platform of a configuration: what makes a guest a Mac, or a generic machine for Linux."""

from pathlib import Path
from typing import Any, assert_never

from vzkubelet.errors import InvalidInput, NotFound, Unsupported
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, faults
from vzkubelet.machines.vz.availability import MacOS, unavailable
from vzkubelet.machines.vz.identity import machine_identifier
from vzkubelet.machines.vz.plan import EFIBoot, KernelBoot, MachinePlan, MacOSBoot, resolved

_AUX_REMEDY = "remove the image (`macos-vz-kubelet image rm REFERENCE`) and pull it again"


def boot_loader(plan: MachinePlan, directory: MachineDirectory) -> Any:
    """Raises NotFound (a kernel or ramdisk that is not there), AppleError."""
    vz = apple.frameworks().Virtualization
    match plan.boot:
        case MacOSBoot():
            return apple.make(vz.VZMacOSBootLoader)
        case EFIBoot() as boot:
            loader = apple.make(vz.VZEFIBootLoader)
            loader.setVariableStore_(_variable_store(vz, boot, directory))
            return loader
        case KernelBoot() as boot:
            kernel = _existing(boot.kernel, directory, "kernel")
            _check_kernel(resolved(boot.kernel, directory.path))
            loader = vz.VZLinuxBootLoader.alloc().initWithKernelURL_(kernel)
            if boot.initial_ramdisk:
                loader.setInitialRamdiskURL_(_existing(boot.initial_ramdisk, directory, "initial RAM disk"))
            if boot.command_line:
                loader.setCommandLine_(boot.command_line)
            return loader
        case _:
            assert_never(plan.boot)


def _existing(path: str, directory: MachineDirectory, what: str) -> Any:
    file = resolved(path, directory.path)
    if not file.is_file():
        raise NotFound(f"the {what} {file} does not exist; pull the image again", reason="FileNotFound")
    return apple.file_url(file)


def _check_kernel(path: Path) -> None:
    """The framework starts a compressed kernel too; the guest then does nothing, for ever."""
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"\x1f\x8b") or head[4:8] == b"zimg":
        raise InvalidInput(
            f"the kernel {path} is compressed; the framework loads an uncompressed Image only: `gunzip -c vmlinuz > "
            "Image`, or `unzboot vmlinuz Image` for an EFI zboot kernel",
            reason="InvalidImage",
        )


def _variable_store(vz: Any, boot: EFIBoot, directory: MachineDirectory) -> Any:
    path = resolved(boot.variable_store, directory.path)
    url = apple.file_url(path)
    if path.exists() and path.stat().st_size:
        return vz.VZEFIVariableStore.alloc().initWithURL_(url)
    options = vz.VZEFIVariableStoreInitializationOptionAllowOverwrite
    store, error = vz.VZEFIVariableStore.alloc().initCreatingVariableStoreAtURL_options_error_(url, options, None)
    if store is None:
        raise apple.apple_error(error, str(path))
    return store


def platform(plan: MachinePlan, directory: MachineDirectory, host: MacOS) -> Any:
    """Raises InvalidInput, NotFound, Unsupported (hardware model, nested virtualization), Exhausted, AppleError."""
    if isinstance(plan.boot, MacOSBoot):
        return _mac_platform(plan, plan.boot, directory, host)
    vz = apple.frameworks().Virtualization
    generic = apple.make(vz.VZGenericPlatformConfiguration)
    generic.setMachineIdentifier_(machine_identifier(vz.VZGenericMachineIdentifier, plan.identity, directory))
    if plan.nested:
        _nest(vz, generic, host)
    return generic


def _nest(vz: Any, generic: Any, host: MacOS) -> None:
    if host < MacOS(15):
        raise unavailable("nested virtualization", MacOS(15), host)
    if not vz.VZGenericPlatformConfiguration.isNestedVirtualizationSupported():
        raise Unsupported(
            "this Mac cannot nest virtual machines: that needs an M3 or later (`sysctl -n machdep.cpu.brand_string`); "
            "run the agent without --vz-nested-virtualization",
            reason="NestedVirtualizationUnsupported",
        )
    generic.setNestedVirtualizationEnabled_(True)


def create_auxiliary_storage(path: Path, hardware_model: bytes) -> None:
    """Make the file, which must not exist, that keeps the NVRAM of a macOS guest. Raises AppleError."""
    vz = apple.frameworks().Virtualization
    model = vz.VZMacHardwareModel.alloc().initWithDataRepresentation_(apple.data(hardware_model))
    storage, error = vz.VZMacAuxiliaryStorage.alloc().initCreatingStorageAtURL_hardwareModel_options_error_(
        apple.file_url(path), model, 0, None
    )
    if storage is None:
        raise apple.apple_error(error, str(path))


def _mac_platform(plan: MachinePlan, boot: MacOSBoot, directory: MachineDirectory, host: MacOS) -> Any:
    if plan.nested:
        raise InvalidInput("macOS guests cannot nest virtual machines; use nested virtualization for Linux guests")
    vz = apple.frameworks().Virtualization
    model = vz.VZMacHardwareModel.alloc().initWithDataRepresentation_(apple.data(boot.hardware_model))
    if model is None:
        raise faults.unreadable("the hardware model", "push the image again with the --hardware-model of its machine")
    if not model.isSupported():
        raise faults.hardware_model_unsupported(host)
    auxiliary_storage = resolved(boot.auxiliary_storage, directory.path)
    if not auxiliary_storage.is_file():
        raise NotFound(
            f"the auxiliary storage {auxiliary_storage} does not exist; {_AUX_REMEDY}", reason="FileNotFound"
        )
    mac = apple.make(vz.VZMacPlatformConfiguration)
    mac.setHardwareModel_(model)
    mac.setMachineIdentifier_(machine_identifier(vz.VZMacMachineIdentifier, plan.identity, directory))
    mac.setAuxiliaryStorage_(vz.VZMacAuxiliaryStorage.alloc().initWithURL_(apple.file_url(auxiliary_storage)))
    return mac
