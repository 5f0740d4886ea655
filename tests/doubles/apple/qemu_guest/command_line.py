"""The command line of one QEMU for a plain description of a virtual machine. Pure.

The guests are x86 Linux whatever the double says of its host: this machine has no other firmware and kernel at hand,
and nothing above the framework sees the difference.
"""

from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
# As the product's own QEMU guests: what boots the test guest fastest under emulation.
_MACHINE = "q35,vmport=off,sata=off,smbus=off,hpet=off"
_PROCESSOR = "Nehalem,+aes,+pclmulqdq,+rdrand,+rdseed,+bmi1,+bmi2,+movbe,+adx,+popcnt"


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw file, as the framework takes no other."""

    path: Path
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """One directory of a share; `name` is empty where it is the share's root."""

    path: Path
    read_only: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """One virtio-fs device."""

    tag: str
    directories: tuple[Shared, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """Layer 2 on a bridge of the host: what NAT and bridged attachments come to."""

    bridge: str


@dataclass(frozen=True, slots=True)
class Datagrams:
    """One frame per datagram on a connected socket: a file handle attachment."""

    descriptor: int


@dataclass(frozen=True, slots=True)
class Interface:
    mac: str
    attachment: Tap | Datagrams | None
    """None: a cable that is plugged in nowhere."""


@dataclass(frozen=True, slots=True)
class Description:
    """One virtual machine. `console` is a file that receives what the first serial port prints."""

    name: str
    cpus: int
    memory_bytes: int
    firmware: Path
    variables: Path
    disks: tuple[Disk, ...]
    interfaces: tuple[Interface, ...] = ()
    shares: tuple[Share, ...] = ()
    console: Path | None = None
    console_append: bool = True
    balloon: bool = False


@dataclass(frozen=True, slots=True)
class Invocation:
    """What changes from one start to the next. Descriptors are inherited, share sockets are abstract unix sockets."""

    monitor_fd: int
    tap_fds: tuple[int, ...] = ()
    """One per interface with a `Tap`, in their order."""
    share_sockets: tuple[str, ...] = ()
    incoming: Path | None = None
    """A saved state to continue, paused."""


def command_line(qemu: str, guest: Description, invocation: Invocation) -> list[str]:
    """Raises: ValueError for a name that QEMU's option syntax cannot carry."""
    for path in (guest.firmware, guest.variables, guest.console, *(disk.path for disk in guest.disks)):
        if path is not None and "," in str(path):
            raise ValueError(f"QEMU takes no file name with a comma: {path}")
    return [
        qemu,
        *_basics(guest),
        *_firmware(guest),
        *_disks(guest.disks),
        *_interfaces(guest.interfaces, invocation.tap_fds),
        *_shares(guest.shares, invocation.share_sockets),
        *_console(guest),
        *(("-device", "virtio-balloon-pci") if guest.balloon else ()),
        "-object", "rng-random,id=rng0,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng0",
        "-chardev", f"socket,id=qmp,fd={invocation.monitor_fd}",
        "-mon", "chardev=qmp,mode=control",
        *_incoming(invocation.incoming),
    ]  # fmt: skip


def _basics(guest: Description) -> list[str]:
    memory = -(-guest.memory_bytes // _MIB)
    machine, backend = _MACHINE, []
    if guest.shares:  # virtiofsd maps the guest's memory
        backend = ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"]
        machine += ",memory-backend=ram"
    return [
        "-nodefaults", "-no-user-config", "-display", "none", "-name", f"guest={guest.name}",
        "-machine", machine, "-accel", "tcg,thread=multi,tb-size=128", "-cpu", _PROCESSOR,
        "-smp", f"cpus={guest.cpus}", "-m", f"{memory}M", *backend,
        "-global", "ICH9-LPC.disable_s3=1",
    ]  # fmt: skip


def _firmware(guest: Description) -> list[str]:
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={guest.firmware}",
        "-drive", f"if=pflash,unit=1,format=raw,file={guest.variables}",
    ]  # fmt: skip


def _disks(disks: tuple[Disk, ...]) -> list[str]:
    arguments: list[str] = []
    for index, disk in enumerate(disks):
        access = "read-only=on" if disk.read_only else "cache.no-flush=on,discard=unmap,detect-zeroes=unmap"
        arguments += [
            "-blockdev", f"driver=raw,node-name=disk{index},{access},file.driver=file,file.filename={disk.path}",
            "-device", f"virtio-blk-pci,drive=disk{index},bootindex={index}",
        ]  # fmt: skip
    return arguments


def _interfaces(interfaces: tuple[Interface, ...], tap_fds: tuple[int, ...]) -> list[str]:
    arguments: list[str] = []
    taps = iter(tap_fds)
    for index, interface in enumerate(interfaces):
        match interface.attachment:
            case Tap():
                netdev = f"tap,id=net{index},fd={next(taps)}"
            case Datagrams(descriptor):
                netdev = f"dgram,id=net{index},local.type=fd,local.str={descriptor}"
            case None:
                netdev = f"hubport,id=net{index},hubid={index}"
        arguments += ["-netdev", netdev, "-device", f"virtio-net-pci,netdev=net{index},mac={interface.mac},romfile="]
    return arguments


def _shares(shares: tuple[Share, ...], sockets: tuple[str, ...]) -> list[str]:
    arguments: list[str] = []
    for index, (share, name) in enumerate(zip(shares, sockets, strict=True)):
        arguments += ["-chardev", f"socket,id=share{index},path={name},abstract=on,tight=on"]
        arguments += ["-device", f"vhost-user-fs-pci,chardev=share{index},tag={share.tag}"]
    return arguments


def _console(guest: Description) -> list[str]:
    """The framework's virtio console is an x86 guest's first serial port, where its kernel prints."""
    if guest.console is None:
        return ["-serial", "none"]
    append = "on" if guest.console_append else "off"
    return ["-chardev", f"file,id=console0,path={guest.console},append={append}", "-serial", "chardev:console0"]


def _incoming(saved: Path | None) -> list[str]:
    return [] if saved is None else ["-S", "-incoming", "defer"]
