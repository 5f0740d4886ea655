"""The command line of one QEMU for the description of a virtual machine. Pure.

The guests are x86 Linux whatever the double says of its host: this machine has no other firmware and kernel at hand,
and nothing above the framework sees the difference.
"""

from dataclasses import dataclass, field
from pathlib import Path

from .description import Boot, Disk, GuestDescription, Nic, SerialPort

_MIB = 1024 * 1024
# As the product's own QEMU guests: what boots the test guest fastest under emulation.
_MACHINE = "q35,vmport=off,sata=off,smbus=off,hpet=off"
_PROCESSOR = "Nehalem,+aes,+pclmulqdq,+rdrand,+rdseed,+bmi1,+bmi2,+movbe,+adx,+popcnt"
_DEVICES = {"virtio": "virtio-blk-pci", "nvme": "nvme", "usb": "usb-storage,bus=usb.0"}
SHARED_NETWORKS = frozenset({"nat", "bridged", "vmnet"})
"""Attachments that come to a tap on the bridge of this Mac."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a start adds to the description. Descriptors are inherited."""

    firmware: Path
    monitor_fd: int
    taps: dict[int, int] = field(default_factory=dict)
    """Descriptor by the index of the network device."""
    datagrams: dict[int, int] = field(default_factory=dict)
    share_sockets: tuple[str, ...] = ()
    """Abstract unix sockets, one per share."""
    console_fd: int | None = None
    """Of a serial port that is attached to a file handle."""
    incoming: bool = False
    """Start paused, for a saved state."""


def machine_name(guest: GuestDescription) -> str:
    """The directory of its first disk: there a node agent keeps one machine."""
    return next((path.parent.name for path in guest.paths()), guest.mac or "guest")


def command_line(qemu: str, guest: GuestDescription, invocation: Invocation) -> list[str]:
    """Raises: ValueError for what an x86 Linux guest cannot be."""
    if guest.kind == "macos":
        raise ValueError("no macOS runs in QEMU: only Linux guests start on this Mac")
    return [
        qemu,
        *_basics(guest),
        *_boot(guest.boot, invocation.firmware),
        *_disks(guest.disks),
        *_network(guest.nics, invocation),
        *_shares([share.tag for share in guest.shares], invocation.share_sockets),
        *_console(guest.serial_ports, invocation.console_fd),
        *(("-device", "virtio-balloon-pci") if guest.balloon else ()),
        *(("-object", "rng-random,id=rng0,filename=/dev/urandom") if guest.entropy else ()),
        *(("-device", "virtio-rng-pci,rng=rng0") if guest.entropy else ()),
        "-chardev", f"socket,id=qmp,fd={invocation.monitor_fd}",
        "-mon", "chardev=qmp,mode=control",
        *(("-S", "-incoming", "defer") if invocation.incoming else ()),
    ]  # fmt: skip


def _basics(guest: GuestDescription) -> list[str]:
    memory = -(-guest.memory_bytes // _MIB)
    machine, backend = _MACHINE, []
    if guest.shares:  # virtiofsd maps the guest's memory
        backend = ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"]
        machine += ",memory-backend=ram"
    usb = ["-device", "qemu-xhci,id=usb"] if any(disk.bus == "usb" for disk in guest.disks) else []
    return [
        "-nodefaults", "-no-user-config", "-display", "none", "-name", f"guest={_plain(machine_name(guest))}",
        "-machine", machine, "-accel", "tcg,thread=multi,tb-size=128", "-cpu", _PROCESSOR,
        "-smp", f"cpus={guest.cpus}", "-m", f"{memory}M", *backend, *usb,
        "-global", "ICH9-LPC.disable_s3=1",
    ]  # fmt: skip


def _boot(boot: Boot, firmware: Path) -> list[str]:
    if boot.kernel:
        ramdisk = ["-initrd", boot.initial_ramdisk] if boot.initial_ramdisk else []
        return ["-kernel", boot.kernel, *ramdisk, "-append", boot.command_line]
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_plain(firmware)}",
        "-drive", f"if=pflash,unit=1,format=raw,file={_plain(boot.variable_store)}",
    ]  # fmt: skip


def _disks(disks: tuple[Disk, ...]) -> list[str]:
    arguments: list[str] = []
    for index, disk in enumerate(disks):
        if not disk.path:
            raise ValueError("disks that are no files are not supported")
        access = "read-only=on" if disk.read_only else "cache.no-flush=on,discard=unmap,detect-zeroes=unmap"
        file = f"file.driver=file,file.filename={_plain(disk.path)}"
        serial = f",serial={disk.identifier or index}" if disk.identifier or disk.bus == "nvme" else ""
        arguments += [
            "-blockdev", f"driver=raw,node-name=disk{index},{access},{file}",
            "-device", f"{_DEVICES[disk.bus]},drive=disk{index},bootindex={index}{serial}",
        ]  # fmt: skip
    return arguments


def _network(nics: tuple[Nic, ...], invocation: Invocation) -> list[str]:
    arguments: list[str] = []
    for index, nic in enumerate(nics):
        if index in invocation.taps:
            netdev = f"tap,id=net{index},fd={invocation.taps[index]}"
        elif index in invocation.datagrams:
            netdev = f"dgram,id=net{index},local.type=fd,local.str={invocation.datagrams[index]}"
        else:
            netdev = f"hubport,id=net{index},hubid={index}"  # a cable that is plugged in nowhere
        device = f"virtio-net-pci,id=nic{index},netdev=net{index},mac={nic.mac},romfile="
        arguments += ["-netdev", netdev, "-device", device]
    return arguments


def _shares(tags: list[str], sockets: tuple[str, ...]) -> list[str]:
    arguments: list[str] = []
    for index, (tag, name) in enumerate(zip(tags, sockets, strict=True)):
        arguments += ["-chardev", f"socket,id=share{index},path={name},abstract=on,tight=on"]
        arguments += ["-device", f"vhost-user-fs-pci,chardev=share{index},tag={_plain(tag)}"]
    return arguments


def _console(ports: tuple[SerialPort, ...], descriptor: int | None) -> list[str]:
    """The framework's virtio console is an x86 guest's first serial port, where its kernel prints."""
    if descriptor is not None:
        path, append = f"/proc/self/fd/{descriptor}", True
    elif ports and ports[0].path:
        path, append = _plain(ports[0].path), ports[0].append
    else:
        return ["-serial", "none"]
    file = f"file,id=console0,path={path},append={'on' if append else 'off'}"
    return ["-chardev", file, "-serial", "chardev:console0"]


def _plain(value: str | Path) -> str:
    if "," in str(value):
        raise ValueError(f"QEMU takes no option value with a comma: {value}")
    return str(value)
