"""The plan as JSON: what is written is what is read, and nothing else is accepted."""

from pathlib import Path

import msgspec
import pytest

from vzkubelet.machines.vz import plan
from vzkubelet.machines.vz.plan import (
    Audio,
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
    KernelBoot,
    MachinePlan,
    MacOSBoot,
    NatNetwork,
    Network,
    SharedDirectory,
    VmnetMode,
    VmnetNetwork,
)

MAC = "02:00:00:00:00:01"


def macos_plan(network: Network | None = None) -> MachinePlan:
    return MachinePlan(
        boot=MacOSBoot(hardware_model=b"\x00model\xff", auxiliary_storage="aux.img"),
        identity=Identity(machine_id=b"\x01", policy=IdentityPolicy.FAIL_IF_RUNNING, locks="/locks"),
        cpus=4,
        memory_bytes=8 * 1024 * plan.MIB,
        disks=(Disk(path="disk.img", caching=DiskCaching.UNCACHED, synchronization=DiskSynchronization.FSYNC),),
        mac=MAC,
        network=network or NatNetwork(),
        shares=(FileSystemShare(tag=plan.AUTOMOUNT_TAG, directories=(SharedDirectory(path="/data", name="data"),)),),
        display=Display(width_px=1920, height_px=1200, pixels_per_inch=80),
        audio=Audio.HOST,
    )


@pytest.mark.parametrize(
    "network",
    [
        NatNetwork(),
        BridgedNetwork(interface="vlan0"),
        VmnetNetwork(mode=VmnetMode.HOST),
        FileHandleNetwork(command=("softnet", "--vm-fd", "{fd}")),
    ],
)
def test_every_network_survives_the_file(network: Network) -> None:
    written = macos_plan(network)
    assert plan.decode(plan.encode(written)) == written


@pytest.mark.parametrize(
    ("boot", "is_macos"),
    [
        (MacOSBoot(hardware_model=b"m", auxiliary_storage="aux.img"), True),
        (EFIBoot(variable_store="aux.img"), False),
        (KernelBoot(kernel="vmlinuz", initial_ramdisk="initrd", command_line="console=hvc0"), False),
    ],
)
def test_every_boot_survives_the_file(boot: plan.Boot, is_macos: bool) -> None:
    written = MachinePlan(boot=boot, cpus=1, memory_bytes=plan.MIB, disks=(), mac=MAC)
    assert plan.decode(plan.encode(written)) == written
    assert written.is_macos is is_macos


def test_a_misspelt_field_is_refused_instead_of_ignored() -> None:
    data = plan.encode(macos_plan()).replace(b'"entropy"', b'"entropie"')
    with pytest.raises(msgspec.ValidationError, match="entropie"):
        plan.decode(data)


def test_the_digest_tells_other_plans_apart() -> None:
    one, other = macos_plan(), macos_plan(BridgedNetwork(interface="en0"))
    assert plan.digest(plan.encode(one)) == plan.digest(plan.encode(macos_plan()))
    assert plan.digest(plan.encode(one)) != plan.digest(plan.encode(other))


@pytest.mark.parametrize(
    ("directories", "is_single"),
    [
        ((), False),
        ((SharedDirectory(path="/a"),), True),
        ((SharedDirectory(path="/a", name="a"),), False),
        ((SharedDirectory(path="/a", name="a"), SharedDirectory(path="/b", name="b")), False),
    ],
)
def test_a_share_of_one_nameless_directory_is_single(directories: tuple[SharedDirectory, ...], is_single: bool) -> None:
    assert FileSystemShare(tag="t", directories=directories).is_single is is_single


def test_paths_lead_into_the_directory_without_symbolic_links(tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    (tmp_path / "link").symlink_to(machine)
    assert plan.resolved("disk.img", tmp_path / "link") == (machine / "disk.img").resolve()
    assert plan.resolved("/elsewhere/disk.img", machine) == Path("/elsewhere/disk.img").resolve()
