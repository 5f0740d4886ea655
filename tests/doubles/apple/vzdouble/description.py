"""What a backing is told about a VM: the validated configuration as plain data. Sizes in bytes."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GuestKind = Literal["macos", "linux-efi", "linux-kernel"]
DiskBus = Literal["virtio", "nvme", "usb"]
NetworkKind = Literal["nat", "bridged", "vmnet", "file-handle", "none"]


@dataclass(frozen=True, slots=True)
class Disk:
    """`path` is empty for a block device (`descriptor`) or a network block device (`url`)."""

    path: str
    read_only: bool
    bus: DiskBus = "virtio"
    caching: int = 0
    synchronization: int = 1
    identifier: str = ""
    descriptor: int | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    """`mac` as ``aa:bb:cc:dd:ee:ff``. `kind` is ``none`` after a disconnection."""

    mac: str
    kind: NetworkKind
    interface: str = ""
    descriptor: int | None = None
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class SharedDirectory:
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Share:
    """`directories` by name; a single-directory share has the one name ``""``. Rosetta's share has none."""

    tag: str
    directories: dict[str, SharedDirectory]
    rosetta: bool = False


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A file (`path`), or the two descriptors of a file-handle attachment, each None where the product gave none."""

    path: str = ""
    append: bool = False
    read_descriptor: int | None = None
    write_descriptor: int | None = None


@dataclass(frozen=True, slots=True)
class Display:
    width_px: int
    height_px: int
    pixels_per_inch: int = 0


@dataclass(frozen=True, slots=True)
class Boot:
    """What is set depends on the kind: `auxiliary_storage` (macos), `variable_store` (linux-efi), the rest
    (linux-kernel)."""

    auxiliary_storage: str = ""
    recovery: bool = False
    variable_store: str = ""
    kernel: str = ""
    initial_ramdisk: str = ""
    command_line: str = ""


@dataclass(frozen=True, slots=True)
class GuestDescription:
    kind: GuestKind
    cpus: int
    memory_bytes: int
    boot: Boot
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    shares: tuple[Share, ...]
    serial_ports: tuple[SerialPort, ...]
    displays: tuple[Display, ...]
    keyboards: tuple[str, ...] = ()
    pointing_devices: tuple[str, ...] = ()
    audio_streams: tuple[str, ...] = ()
    console_ports: tuple[str, ...] = ()
    entropy: bool = False
    balloon: bool = False
    vsock: bool = False
    nested: bool = False
    hardware_model: str = ""
    """Hex of the data representation, as `machine_id`."""
    machine_id: str = ""

    @property
    def mac(self) -> str:
        """The first network device's, or empty."""
        return self.nics[0].mac if self.nics else ""

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Of what must be equal for a saved state to be restored: all but descriptors and recovery."""
        fields = self.as_json()
        for item in (*fields["nics"], *fields["disks"]):
            del item["descriptor"]
        for item in fields["serial_ports"]:
            del item["read_descriptor"], item["write_descriptor"]
        del fields["boot"]["recovery"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def paths(self) -> tuple[Path, ...]:
        return tuple(Path(disk.path) for disk in self.disks if disk.path)
