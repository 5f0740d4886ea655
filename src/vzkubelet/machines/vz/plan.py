"""What one virtual machine is made of, as the JSON that its helper reads (``vz.json``). Pure.

Paths are absolute, or relative to the machine's directory: a machine is made in a staging directory and renamed. Sizes
are bytes. Nothing here is checked against a host; that is for `configuration`, which also knows the host's version.
"""

import hashlib
from enum import StrEnum
from pathlib import Path

import msgspec

PLAN_VERSION = 1

AUTOMOUNT_TAG = "com.apple.virtio-fs.automount"
"""What ``VZVirtioFileSystemDeviceConfiguration.macOSGuestAutomountTag()`` returns: macOS 13 guests mount it by
themselves at ``/Volumes/My Shared Files``."""

MIB = 1024 * 1024


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a plan."""


# --- Boot and platform -----------------------------------------------------------------------------------------------


class IdentityPolicy(StrEnum):
    """What to do about the machine identifier (ECID) of the image, which every clone of it would share."""

    KEEP = "keep"
    """Use the image's, whatever else runs."""
    RANDOM = "random"
    """Make one at the first start of the machine and keep it in its directory."""
    FAIL_IF_RUNNING = "fail-if-running"
    """Use the image's, and refuse to start while another machine with it runs on this host."""


class Identity(Plan, frozen=True, kw_only=True):
    machine_id: bytes = b""
    """Data representation of a VZMacMachineIdentifier or VZGenericMachineIdentifier; empty = made at first start."""
    policy: IdentityPolicy = IdentityPolicy.KEEP
    locks: str = ""
    """Directory shared by all machines of the host, where `FAIL_IF_RUNNING` holds a lock per identifier."""


class MacOSBoot(Plan, tag="macos", frozen=True, kw_only=True):
    """A macOS guest. `auxiliary_storage` was created with `hardware_model` (VZMacHardwareModel data)."""

    hardware_model: bytes
    auxiliary_storage: str


class EFIBoot(Plan, tag="efi", frozen=True, kw_only=True):
    """A Linux guest with firmware; the variable store is created when the file does not exist."""

    variable_store: str


class KernelBoot(Plan, tag="kernel", frozen=True, kw_only=True):
    """A Linux guest whose kernel is loaded directly (on arm64 an uncompressed Image)."""

    kernel: str
    initial_ramdisk: str = ""
    command_line: str = ""


Boot = MacOSBoot | EFIBoot | KernelBoot


# --- Storage ---------------------------------------------------------------------------------------------------------


class DiskCaching(StrEnum):
    """VZDiskImageCachingMode."""

    AUTOMATIC = "automatic"
    UNCACHED = "uncached"
    CACHED = "cached"


class DiskSynchronization(StrEnum):
    """VZDiskImageSynchronizationMode."""

    FULL = "full"
    FSYNC = "fsync"
    NONE = "none"


class Disk(Plan, frozen=True, kw_only=True):
    """A raw disk image (or ASIF on macOS 26) on virtio-blk; the first of a plan is booted from."""

    path: str
    caching: DiskCaching | None = None
    """None = Cached for Linux guests, whose file systems get damaged otherwise, and Automatic for macOS (as tart)."""
    synchronization: DiskSynchronization = DiskSynchronization.FULL


# --- Network ---------------------------------------------------------------------------------------------------------


class NatNetwork(Plan, tag="nat", frozen=True, kw_only=True):
    """Apple's shared NAT: vmnet's DHCP server, leases in ``/var/db/dhcpd_leases``."""


class BridgedNetwork(Plan, tag="bridged", frozen=True, kw_only=True):
    """A host interface (``en0``, ``vlan0``). Needs the entitlement com.apple.vm.networking."""

    interface: str


class VmnetMode(StrEnum):
    SHARED = "shared"
    HOST = "host"


class VmnetNetwork(Plan, tag="vmnet", frozen=True, kw_only=True):
    """A vmnet network made by the helper itself (macOS 26)."""

    mode: VmnetMode = VmnetMode.SHARED


class FileHandleNetwork(Plan, tag="file-handle", frozen=True, kw_only=True):
    """Ethernet frames over a datagram socket whose other end a packet filter (softnet) holds.

    `command` is started by the helper before the frameworks are loaded (no fork after that), with its end of the pair
    inherited; ``{fd}`` in an argument is that descriptor's number and ``{mac}`` the guest's MAC. It ends with the VM.
    """

    command: tuple[str, ...]


Network = NatNetwork | BridgedNetwork | VmnetNetwork | FileHandleNetwork


# --- Shares and other devices ----------------------------------------------------------------------------------------


class SharedDirectory(Plan, frozen=True, kw_only=True):
    """A host directory. `name` is its name below the tag's mount point; empty when the tag is this directory alone."""

    path: str
    read_only: bool = False
    name: str = ""


class FileSystemShare(Plan, frozen=True, kw_only=True):
    """One virtio-fs device. One directory without a name is a VZSingleDirectoryShare, all else a multiple one, which
    may be empty and be filled while the guest runs."""

    tag: str
    directories: tuple[SharedDirectory, ...] = ()

    @property
    def is_single(self) -> bool:
        return len(self.directories) == 1 and not self.directories[0].name


class Display(Plan, frozen=True, kw_only=True):
    width_px: int = 1024
    height_px: int = 768
    pixels_per_inch: int = 72


class Audio(StrEnum):
    OFF = "off"
    """No sound device."""
    SILENT = "silent"
    """A loudspeaker that leads nowhere: guests behave as with sound, the host stays quiet, no microphone prompt."""
    HOST = "host"
    """The host's loudspeaker and microphone (asks the user for the microphone)."""


# --- Patience ---------------------------------------------------------------------------------------------------------


class Waits(Plan, frozen=True, kw_only=True):
    """How long the framework may take to call back, before the machine counts as stuck. Seconds."""

    start_s: float = 50.0
    stop_s: float = 10.0
    """After that the machine ends with its helper."""


# --- The whole -------------------------------------------------------------------------------------------------------


class MachinePlan(Plan, frozen=True, kw_only=True):
    """Everything that the helper needs to build a VZVirtualMachineConfiguration."""

    boot: Boot
    cpus: int
    memory_bytes: int
    """A multiple of 1 MiB."""
    disks: tuple[Disk, ...]
    mac: str
    network: Network = msgspec.field(default_factory=NatNetwork)
    identity: Identity = msgspec.field(default_factory=Identity)
    shares: tuple[FileSystemShare, ...] = ()
    display: Display | None = None
    """A macOS guest always has one; None = the default there, and no graphics device for Linux."""
    audio: Audio = Audio.SILENT
    console: str = "console.log"
    """File that the guest's serial port is appended to; empty = no serial port."""
    entropy: bool = True
    balloon: bool = True
    vsock: bool = True
    rosetta_tag: str = ""
    """Tag of the share with Rosetta's binaries for a Linux guest; empty = none."""
    nested: bool = False
    """Nested virtualization for a Linux guest (macOS 15, M3 and later)."""
    suspendable: bool = False
    """Only devices that can be saved and restored (macOS 14): no entropy, host audio, USB keyboard or pointer."""
    waits: Waits = msgspec.field(default_factory=Waits)
    version: int = PLAN_VERSION

    @property
    def is_macos(self) -> bool:
        return isinstance(self.boot, MacOSBoot)


def encode(plan: MachinePlan) -> bytes:
    """The file's bytes, every field written out for whoever reads it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


def decode(data: bytes) -> MachinePlan:
    """Raises msgspec.DecodeError (msgspec.ValidationError for a field that is unknown or of the wrong type)."""
    return msgspec.json.decode(data, type=MachinePlan)


def digest(data: bytes) -> str:
    """SHA-256 of the file's bytes: tells whether a helper runs what the daemon believes it does."""
    return hashlib.sha256(data).hexdigest()


def resolved(path: str, directory: Path) -> Path:
    """The absolute path of a plan's file, without symbolic links: the framework does not follow them."""
    return (directory / path).resolve()
