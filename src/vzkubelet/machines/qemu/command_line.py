"""The command line of one QEMU. Pure: what it needs of the host is given.

QEMU runs in the machine's directory, so its file names are short and relative; sockets it serves or opens are handed
over as descriptors or lie beside it. Commas in foreign names would end a QEMU option: none is foreign here.
"""

from dataclasses import dataclass
from pathlib import Path

from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.directory import MachineDirectory, MachineRecord
from vzkubelet.machines.qemu.accelerator import Accelerator
from vzkubelet.machines.qemu.host import QemuHost

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class QemuInvocation:
    """What changes from one start to the next."""

    accelerator: Accelerator
    netdev: str
    """Value of ``-netdev`` with id ``net0``."""
    mac: MacAddress
    monitor_fd: int
    """A listening unix socket that QEMU inherits for QMP."""


def guest_memory_mib(memory_bytes: int) -> int:
    """Whole MiB, rounded up."""
    return -(-memory_bytes // _MIB)


def command_line(
    host: QemuHost, machine: MachineDirectory, record: MachineRecord, invocation: QemuInvocation
) -> list[str]:
    """Arguments of QEMU for `record`, to be run in `machine.path`. Stdin and stdout are the event monitor's."""
    return [
        host.qemu,
        *_basics(host, record, invocation),
        *_firmware(host.firmware, machine),
        *_disk(machine, record),
        *_devices(invocation, machine),
        *_shares(machine, record),
        *_monitors(invocation),
    ]


def _basics(host: QemuHost, record: MachineRecord, invocation: QemuInvocation) -> list[str]:
    memory = guest_memory_mib(record.memory_bytes)
    machine = host.platform.machine
    backend: list[str] = []
    if record.shares:  # virtiofsd maps the guest's memory
        backend = ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"]
        machine += ",memory-backend=ram"
    arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-name", f"guest={record.uid}"]
    arguments += ["-machine", machine, *invocation.accelerator.arguments]
    arguments += ["-smp", f"cpus={record.cpus}", "-m", f"{memory}M", *backend]
    for setting in host.platform.globals:
        arguments += ["-global", setting]
    return arguments


def _firmware(code: Path, machine: MachineDirectory) -> list[str]:
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,unit=1,format=raw,file={machine.aux.name}",
    ]  # fmt: skip


def _disk(machine: MachineDirectory, record: MachineRecord) -> list[str]:
    name = machine.disk_overlay.name if record.disk_format == "qcow2" else machine.disk_raw.name
    # A clone never outlives a crash of the host (the container starts from a fresh one), so flushes buy nothing.
    options = "cache.direct=off,cache.no-flush=on,discard=unmap,detect-zeroes=unmap"
    return [
        "-blockdev", f"driver={record.disk_format},node-name=disk0,{options},file.driver=file,file.filename={name}",
        "-device", "virtio-blk-pci,drive=disk0,bootindex=0",
    ]  # fmt: skip


def _devices(invocation: QemuInvocation, machine: MachineDirectory) -> list[str]:
    return [
        "-netdev", invocation.netdev,
        "-device", f"virtio-net-pci,netdev=net0,mac={invocation.mac},romfile=",
        "-object", "rng-random,id=rng0,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng0",
        "-chardev", f"file,id=console0,path={machine.console.name},append=on",
        "-serial", "chardev:console0",
    ]  # fmt: skip


def _shares(machine: MachineDirectory, record: MachineRecord) -> list[str]:
    arguments: list[str] = []
    for index, share in enumerate(record.shares):
        arguments += ["-chardev", f"socket,id=share{index},path={machine.share_socket(share.tag).name}"]
        arguments += ["-device", f"vhost-user-fs-pci,chardev=share{index},tag={share.tag}"]
    return arguments


def _monitors(invocation: QemuInvocation) -> list[str]:
    return [
        "-chardev", f"socket,id=qmp,fd={invocation.monitor_fd},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", "stdio,id=events,signal=off",
        "-mon", "chardev=events,mode=control",
    ]  # fmt: skip
