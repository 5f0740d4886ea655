"""From a plan to a validated VZVirtualMachineConfiguration, in the order that tart builds one."""

from dataclasses import dataclass
from typing import Any

from vzkubelet.errors import InvalidInput
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, devices, faults, network, platforms, shares, storage
from vzkubelet.machines.vz.apple import AppleError
from vzkubelet.machines.vz.availability import MacOS, unavailable
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.network import NetworkAttachment
from vzkubelet.machines.vz.plan import MIB, MachinePlan


@dataclass(frozen=True, slots=True)
class Built:
    """A configuration and what must stay referenced while a machine made of it lives (file handles, above all)."""

    configuration: Any
    keep: tuple[object, ...]


def build(
    plan: MachinePlan, directory: MachineDirectory, host: MacOS, situation: Situation, descriptor: int | None
) -> Built:
    """Build and validate. Opens files, so not for an event loop; needs no queue.

    `descriptor` is our end of the packet filter's socket, for a plan with a `FileHandleNetwork`.
    Raises InvalidInput, NotFound, Unsupported, Forbidden (not entitled), Conflict, Exhausted, Unavailable,
    MachineFault.
    """
    try:
        built = _assemble(plan, directory, host, descriptor)
    except AppleError as exc:
        raise faults.translate(exc, situation.during(Operation.CONFIGURE)) from exc
    except (ValueError, IndexError, KeyError, apple.objective_c_error()) as exc:
        raise faults.translate(faults.exception(exc), situation.during(Operation.CONFIGURE)) from exc
    _validate(built.configuration, plan, host, situation)
    return built


def _assemble(plan: MachinePlan, directory: MachineDirectory, host: MacOS, descriptor: int | None) -> Built:
    configuration = apple.frameworks().Virtualization.VZVirtualMachineConfiguration.alloc().init()
    _check_size(plan)
    configuration.setBootLoader_(platforms.boot_loader(plan, directory))
    configuration.setCPUCount_(plan.cpus)
    configuration.setMemorySize_(plan.memory_bytes)
    configuration.setPlatform_(platforms.platform(plan, directory, host))
    configuration.setGraphicsDevices_(devices.graphics_devices(plan))
    configuration.setAudioDevices_(devices.audio_devices(plan))
    configuration.setKeyboards_(devices.keyboards(plan, host))
    configuration.setPointingDevices_(devices.pointing_devices(plan, host))
    attached = network_attachment(plan, host, descriptor)
    configuration.setNetworkDevices_([_network_device(plan, attached)])
    configuration.setStorageDevices_(storage.storage_devices(plan, directory))
    configuration.setEntropyDevices_(devices.entropy_devices(plan))
    configuration.setMemoryBalloonDevices_(devices.memory_balloon_devices(plan))
    configuration.setDirectorySharingDevices_(shares.sharing_devices(plan, directory, host))
    configuration.setSerialPorts_(devices.serial_ports(plan, directory))
    configuration.setSocketDevices_(devices.socket_devices(plan))
    return Built(configuration, (attached.attachment, *attached.keep))


def _check_size(plan: MachinePlan) -> None:
    """The framework would refuse these too, without saying what it takes."""
    kind = apple.frameworks().Virtualization.VZVirtualMachineConfiguration
    cpu_min, cpu_max = int(kind.minimumAllowedCPUCount()), int(kind.maximumAllowedCPUCount())
    if not cpu_min <= plan.cpus <= cpu_max:
        raise InvalidInput(f"{plan.cpus} CPUs asked for; this host gives a virtual machine {cpu_min} to {cpu_max}")
    memory_min, memory_max = int(kind.minimumAllowedMemorySize()), int(kind.maximumAllowedMemorySize())
    if not memory_min <= plan.memory_bytes <= memory_max:
        raise InvalidInput(
            f"{plan.memory_bytes / MIB:.0f}Mi of memory asked for; this host gives a virtual machine "
            f"{memory_min // MIB}Mi to {memory_max // MIB}Mi"
        )
    if plan.memory_bytes % MIB:
        raise InvalidInput(f"{plan.memory_bytes} bytes of memory asked for; give a multiple of 1Mi")


def network_attachment(plan: MachinePlan, host: MacOS, descriptor: int | None) -> NetworkAttachment:
    """A new attachment as the plan wants it; also for a running machine that lost the one it had."""
    return network.attachment(apple.frameworks(), host, plan.network, descriptor)


def _network_device(plan: MachinePlan, attached: NetworkAttachment) -> Any:
    device = apple.make(apple.frameworks().Virtualization.VZVirtioNetworkDeviceConfiguration)
    device.setMACAddress_(devices.mac_address(plan.mac))
    device.setAttachment_(attached.attachment)
    return device


def _validate(configuration: Any, plan: MachinePlan, host: MacOS, situation: Situation) -> None:
    valid, error = configuration.validateWithError_(None)
    if not valid:
        told = apple.apple_error(error)
        raise faults.translate(told, situation.during(Operation.VALIDATE)) from told
    if not plan.suspendable:
        return
    if host < MacOS(14):
        raise unavailable("saving a machine", MacOS(14), host)
    valid, error = configuration.validateSaveRestoreSupportWithError_(None)
    if not valid:
        told = apple.apple_error(error)
        raise faults.translate(told, situation.during(Operation.SAVE)) from told
