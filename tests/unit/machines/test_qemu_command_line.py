"""The command line gives a guest exactly what its record says."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.machines.addresses import machine_mac
from vzkubelet.machines.directory import MachineDirectory, MachineRecord, ShareRecord
from vzkubelet.machines.qemu import shares
from vzkubelet.machines.qemu.accelerator import KVM, TCG, TRIALS
from vzkubelet.machines.qemu.command_line import QemuInvocation, command_line
from vzkubelet.machines.qemu.host import PLATFORMS, QemuHost
from vzkubelet.ports import Share

HOST = QemuHost("amd64", PLATFORMS["amd64"], "qemu", Path("code.fd"), "virtiofsd", "unshare", "ip", "dnsmasq", None)
RECORD = MachineRecord(
    driver="qemu",
    namespace="ns",
    name="pod",
    uid="u1",
    image="i",
    image_id="i",
    os="linux",
    architecture="amd64",
    cpus=2,
    memory_bytes=200 * 1024 * 1024 + 1,
    disk_format="qcow2",
)
INVOCATION = QemuInvocation(TCG["amd64"], "tap,id=net0,fd=7", machine_mac("u1"), monitor_fd=5)


def line(record: MachineRecord = RECORD, invocation: QemuInvocation = INVOCATION) -> str:
    return " ".join(command_line(HOST, MachineDirectory(Path("somewhere/u1")), record, invocation))


def test_cpus_and_memory_are_as_asked_rounded_up() -> None:
    assert "-smp cpus=2 -m 201M" in line()


def test_the_image_is_never_named() -> None:
    """Only files of the machine's own directory, by relative names; the firmware's code is read-only."""
    assert "file.filename=disk.qcow2" in line()
    assert "driver=qcow2" in line()
    assert "unit=0,format=raw,readonly=on,file=code.fd" in line()
    assert "unit=1,format=raw,file=aux.img" in line()
    assert "somewhere" not in line()


def test_a_reflinked_disk_is_raw() -> None:
    raw = line(msgspec.structs.replace(RECORD, disk_format="raw"))
    assert "driver=raw,node-name=disk0" in raw
    assert "file.filename=disk.img" in raw


def test_memory_is_shared_only_where_shares_need_it() -> None:
    assert "memory-backend" not in line()
    shared = line(
        msgspec.structs.replace(RECORD, shares=(ShareRecord("data", "/srv"), ShareRecord("logs", "/log", True)))
    )
    assert "memory-backend-memfd,id=ram,size=201M,share=on" in shared
    assert "memory-backend=ram" in shared
    assert "socket,id=share1,path=share-logs.sock" in shared
    assert "vhost-user-fs-pci,chardev=share0,tag=data" in shared


def test_the_mac_is_the_machines_own() -> None:
    assert f"mac={machine_mac('u1')}" in line()


def test_the_accelerator_is_the_proven_one() -> None:
    assert "-accel tcg" in line()
    assert "-accel kvm -cpu host" in line(invocation=replace(INVOCATION, accelerator=KVM))


def test_nothing_is_added_by_default() -> None:
    assert "-nodefaults -no-user-config -display none" in line()


def test_the_trial_guests_end_their_qemu() -> None:
    assert len(TRIALS["amd64"].code) == 512
    assert TRIALS["amd64"].code[-2:] == b"\x55\xaa"
    assert TRIALS["amd64"].exit_status == 0x23
    assert TRIALS.keys() == PLATFORMS.keys() == TCG.keys()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (["a,b"], "share tag"),
        ([""], "share tag"),
        (["x" * 37], "share tag"),
        (["a", "a"], "two shares"),
        ([" a"], "share tag"),
    ],
)
def test_a_tag_that_would_end_an_option_is_refused(tmp_path: Path, tags: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        shares.validate([Share(tag, tmp_path) for tag in tags])


def test_a_share_without_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a directory"):
        shares.validate([Share("a", tmp_path / "absent")])
    with pytest.raises(InvalidInput, match="comma"):
        shares.validate([Share("a", Path("/srv/a,b"))])
