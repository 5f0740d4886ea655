"""From a machine's record and the agent's settings to the plan that its helper reads. Pure."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from vzkubelet.config.settings import VzAudio, VzDiskCaching, VzMachineId, VzNetwork, VzSettings
from vzkubelet.errors import InvalidInput
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.directory import MachineDirectory, MachineRecord
from vzkubelet.machines.vz.plan import (
    MIB,
    Audio,
    Boot,
    BridgedNetwork,
    Disk,
    DiskCaching,
    DiskSynchronization,
    Display,
    EFIBoot,
    FileHandleNetwork,
    FileSystemShare,
    Identity,
    IdentityPolicy,
    MachinePlan,
    MacOSBoot,
    NatNetwork,
    Network,
    SharedDirectory,
    VmnetMode,
    VmnetNetwork,
    Waits,
)
from vzkubelet.machines.vz.slots import GuestKind

ROSETTA_TAG = "rosetta"
IDENTITIES = "identities"
"""Directory of the host's own that tells which machine identifiers are in use."""

_CACHING = {
    VzDiskCaching.AUTO: None,
    VzDiskCaching.AUTOMATIC: DiskCaching.AUTOMATIC,
    VzDiskCaching.CACHED: DiskCaching.CACHED,
    VzDiskCaching.UNCACHED: DiskCaching.UNCACHED,
}
_AUDIO = {VzAudio.OFF: Audio.OFF, VzAudio.SILENT: Audio.SILENT, VzAudio.HOST: Audio.HOST}
_IDENTITY = {
    VzMachineId.KEEP: IdentityPolicy.KEEP,
    VzMachineId.RANDOM: IdentityPolicy.RANDOM,
    VzMachineId.FAIL_IF_RUNNING: IdentityPolicy.FAIL_IF_RUNNING,
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the agent's settings decide for every machine."""

    settings: VzSettings
    bridge_interface: str | None
    host_directory: Path
    waits: Waits = field(default_factory=Waits)


def network(choices: Choices) -> Network:
    """A bridge goes before a packet filter, and both before the kinds of shared network."""
    settings = choices.settings
    if choices.bridge_interface:
        return BridgedNetwork(interface=choices.bridge_interface)
    if settings.packet_filter:
        return FileHandleNetwork(command=settings.packet_filter)
    match settings.network:
        case VzNetwork.NAT:
            return NatNetwork()
        case VzNetwork.VMNET_SHARED:
            return VmnetNetwork(mode=VmnetMode.SHARED)
        case VzNetwork.VMNET_HOST:
            return VmnetNetwork(mode=VmnetMode.HOST)
        case _:
            assert_never(settings.network)


def machine_plan(record: MachineRecord, directory: MachineDirectory, choices: Choices, mac: MacAddress) -> MachinePlan:
    """Raises InvalidInput when the image is for macOS and has no hardware model."""
    settings = choices.settings
    kind = GuestKind.of(record.os)
    display = settings.display
    return MachinePlan(
        boot=_boot(record, directory, kind),
        cpus=record.cpus,
        memory_bytes=-(-record.memory_bytes // MIB) * MIB,
        disks=(
            Disk(
                path=directory.disk_raw.name,
                caching=_CACHING[settings.disk_caching],
                synchronization=DiskSynchronization(settings.disk_sync.value),
            ),
        ),
        mac=str(mac),
        network=network(choices),
        identity=Identity(
            machine_id=record.machine_id,
            policy=_IDENTITY[settings.machine_id],
            locks=str(choices.host_directory / IDENTITIES),
        ),
        shares=tuple(
            FileSystemShare(
                tag=share.tag, directories=(SharedDirectory(path=str(share.path), read_only=share.read_only),)
            )
            for share in record.shared()
        ),
        display=None
        if kind is GuestKind.LINUX
        else Display(width_px=display.width_px, height_px=display.height_px, pixels_per_inch=display.pixels_per_inch),
        audio=_AUDIO[settings.audio] if kind is GuestKind.MACOS else Audio.OFF,
        console=directory.console.name,
        rosetta_tag=ROSETTA_TAG if settings.rosetta and kind is GuestKind.LINUX else "",
        nested=settings.nested and kind is GuestKind.LINUX,
        waits=choices.waits,
    )


def _boot(record: MachineRecord, directory: MachineDirectory, kind: GuestKind) -> Boot:
    if kind is GuestKind.LINUX:
        return EFIBoot(variable_store=directory.aux.name)
    check_image(record.image, record.hardware_model)
    return MacOSBoot(hardware_model=record.hardware_model, auxiliary_storage=directory.aux.name)


def check_image(reference: str, hardware_model: bytes) -> None:
    """Raises InvalidInput for a macOS image that cannot be booted."""
    if not hardware_model:
        raise InvalidInput(
            f"image {reference} is for macOS and names no hardware model, which its auxiliary storage belongs to: "
            "push it again with --hardware-model"
        )
