"""A description of a virtual machine as a QEMU, and its shares as virtiofsd."""

import dataclasses
from pathlib import Path

import pytest

from tests.doubles.apple.vzdouble import qemu_shares
from tests.doubles.apple.vzdouble.description import (
    Boot,
    Disk,
    GuestDescription,
    Nic,
    SerialPort,
    Share,
    SharedDirectory,
)
from tests.doubles.apple.vzdouble.qemu_command_line import Invocation, command_line

FIRMWARE = Path("/f/firmware.fd")
GUEST = GuestDescription(
    kind="linux-efi",
    cpus=2,
    memory_bytes=(256 << 20) + 1,
    boot=Boot(variable_store="/m/uid/aux.img"),
    disks=(Disk("/m/uid/disk.img", read_only=False), Disk("/m/uid/tools.img", read_only=True, identifier="tools")),
    nics=(Nic("02:00:00:00:00:01", "nat"),),
    shares=(),
    serial_ports=(SerialPort("/m/uid/console.log", append=True),),
    displays=(),
)


def with_fields(**changes: object) -> GuestDescription:
    return dataclasses.replace(GUEST, **changes)  # type: ignore[arg-type]


def arguments(guest: GuestDescription, **invocation: object) -> list[str]:
    return command_line("qemu", guest, Invocation(FIRMWARE, 7, **invocation))  # type: ignore[arg-type]


def values(line: list[str], option: str) -> list[str]:
    return [line[index + 1] for index, word in enumerate(line) if word == option]


def test_whole_machine() -> None:
    line = arguments(GUEST, taps={0: 9})
    assert values(line, "-name") == ["guest=uid"]
    assert values(line, "-smp") == ["cpus=2"]
    assert values(line, "-m") == ["257M"]
    assert values(line, "-netdev") == ["tap,id=net0,fd=9"]
    assert "virtio-net-pci,id=nic0,netdev=net0,mac=02:00:00:00:00:01,romfile=" in values(line, "-device")
    assert values(line, "-drive") == [
        "if=pflash,unit=0,format=raw,readonly=on,file=/f/firmware.fd",
        "if=pflash,unit=1,format=raw,file=/m/uid/aux.img",
    ]
    disk, tools = values(line, "-blockdev")
    assert "read-only" not in disk
    assert "read-only=on" in tools
    assert "virtio-blk-pci,drive=disk1,bootindex=1,serial=tools" in values(line, "-device")
    assert "file,id=console0,path=/m/uid/console.log,append=on" in values(line, "-chardev")
    assert "-incoming" not in line


def test_guest_memory_is_shared_with_the_servers_of_shares() -> None:
    share = Share("data", {"": SharedDirectory("/d", read_only=False)})
    line = arguments(with_fields(shares=(share,)), share_sockets=("abc",))
    assert "socket,id=share0,path=abc,abstract=on,tight=on" in values(line, "-chardev")
    assert "vhost-user-fs-pci,chardev=share0,tag=data" in values(line, "-device")
    assert values(line, "-machine")[0].endswith("memory-backend=ram")
    assert "memory-backend" not in " ".join(arguments(GUEST))


@pytest.mark.parametrize(
    ("nic", "invocation", "netdev"),
    [
        (Nic("02:00:00:00:00:01", "file-handle", descriptor=5), {"datagrams": {0: 5}}, "dgram,id=net0,local.type=fd"),
        (Nic("02:00:00:00:00:01", "none"), {}, "hubport,id=net0"),
    ],
)
def test_other_attachments(nic: Nic, invocation: dict[str, object], netdev: str) -> None:
    assert values(arguments(with_fields(nics=(nic,)), **invocation), "-netdev")[0].startswith(netdev)


def test_console_of_a_file_handle_is_the_inherited_descriptor() -> None:
    line = arguments(with_fields(serial_ports=(SerialPort(write_descriptor=6),)), console_fd=6)
    assert "file,id=console0,path=/proc/self/fd/6,append=on" in values(line, "-chardev")


def test_kernel_without_firmware() -> None:
    line = arguments(with_fields(kind="linux-kernel", boot=Boot(kernel="/k", initial_ramdisk="/i", command_line="a b")))
    assert (values(line, "-kernel"), values(line, "-initrd"), values(line, "-append")) == (["/k"], ["/i"], ["a b"])
    assert "-drive" not in line


def test_saved_state_starts_paused() -> None:
    assert arguments(GUEST, incoming=True)[-3:] == ["-S", "-incoming", "defer"]


@pytest.mark.parametrize(
    "changes",
    [{"kind": "macos"}, {"disks": (Disk("", read_only=False, descriptor=4),)}, {"boot": Boot(variable_store="/a,b")}],
)
def test_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"macOS|no files|comma"):
        arguments(with_fields(**changes))


def test_single_writable_directory_is_served_as_it_is() -> None:
    share = Share("data", {"": SharedDirectory("/d", read_only=False)})
    assert qemu_shares.command("virtiofsd", share, 3) == ["virtiofsd", "--fd=3", "-o", "source=/d", "-o", "cache=auto"]


def test_read_only_and_several_directories_are_mounts_of_the_servers_own() -> None:
    read_only = qemu_shares.command("virtiofsd", Share("t", {"": SharedDirectory("/d e", read_only=True)}), 3)
    assert read_only[:4] == ["unshare", "--mount", "--propagation", "private"]
    assert (
        "mount --bind '/d e' /mnt\nmount -o remount,bind,ro /mnt\nexec virtiofsd --fd=3 -o source=/mnt"
        in (read_only[-1])
    )
    both = {"a": SharedDirectory("/a", read_only=False), "b": SharedDirectory("/b", read_only=True)}
    script = qemu_shares.command("virtiofsd", Share("t", both), 3)[-1].splitlines()
    assert script[1:6] == [
        "mount -t tmpfs -o mode=755 none /mnt",
        "mkdir /mnt/a",
        "mount --bind /a /mnt/a",
        "mkdir /mnt/b",
        "mount --bind /b /mnt/b",
    ]
    assert script[6] == "mount -o remount,bind,ro /mnt/b"
