"""From record and settings to the plan that a helper reads."""

from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.errors import InvalidInput
from vzkubelet.machines.addresses import MacAddress
from vzkubelet.machines.directory import MachineDirectory, MachineRecord, ShareRecord
from vzkubelet.machines.vz import plan
from vzkubelet.machines.vz.planning import Choices, machine_plan, network

MAC = MacAddress(bytes([2, 0, 0, 0, 0, 7]))
DIRECTORY = MachineDirectory(Path("/machines/u-1"))


def record(system: str = "darwin", **fields: object) -> MachineRecord:
    known: dict[str, object] = {
        "driver": "vz",
        "namespace": "ns",
        "name": "p",
        "uid": "u-1",
        "image": "registry.test/guest:1",
        "image_id": "registry.test/guest@sha256:0",
        "os": system,
        "architecture": "arm64",
        "cpus": 4,
        "memory_bytes": 4 << 30,
        "hardware_model": b"model" if system == "darwin" else b"",
        "machine_id": b"id" if system == "darwin" else b"",
    }
    return MachineRecord(**{**known, **fields})  # type: ignore[arg-type]


def choices(bridge_interface: str | None = None, **flags: str) -> Choices:
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    settings = config.load(given, {}, purpose=config.Purpose.STANDALONE).vz
    return Choices(settings, bridge_interface, Path("/host"))


def planned(system: str = "darwin", bridge_interface: str | None = None, **flags: str) -> plan.MachinePlan:
    return machine_plan(record(system), DIRECTORY, choices(bridge_interface, **flags), MAC)


def test_a_macos_guest_by_default_is_what_tart_and_the_go_project_run() -> None:
    got = planned()
    assert got.boot == plan.MacOSBoot(hardware_model=b"model", auxiliary_storage="aux.img")
    assert got.disks == (plan.Disk(path="disk.img"),)
    assert (got.cpus, got.memory_bytes, got.mac) == (4, 4 << 30, "02:00:00:00:00:07")
    assert got.network == plan.NatNetwork()
    assert got.identity == plan.Identity(machine_id=b"id", locks="/host/identities")
    assert got.display == plan.Display(width_px=1024, height_px=768)
    assert got.audio is plan.Audio.SILENT
    assert got.console == "console.log"
    assert plan.decode(plan.encode(got)) == got


def test_a_linux_guest_boots_by_firmware_without_display_and_sound() -> None:
    got = planned("linux")
    assert got.boot == plan.EFIBoot(variable_store="aux.img")
    assert (got.display, got.audio, got.rosetta_tag, got.nested) == (None, plan.Audio.OFF, "", False)


def test_memory_is_whole_mebibytes() -> None:
    got = machine_plan(record(memory_bytes=(1 << 30) + 1), DIRECTORY, choices(), MAC)
    assert got.memory_bytes == (1 << 30) + (1 << 20)


def test_settings_reach_the_plan() -> None:
    mac = planned(
        vz_display="1920x1080x80",
        vz_audio="host",
        vz_disk_caching="uncached",
        vz_disk_sync="none",
        vz_machine_id="random",
        vz_rosetta="true",
        vz_nested_virtualization="true",
    )
    assert mac.display == plan.Display(width_px=1920, height_px=1080, pixels_per_inch=80)
    assert mac.audio is plan.Audio.HOST
    assert mac.disks[0].caching is plan.DiskCaching.UNCACHED
    assert mac.disks[0].synchronization is plan.DiskSynchronization.NONE
    assert mac.identity.policy is plan.IdentityPolicy.RANDOM
    assert (mac.rosetta_tag, mac.nested) == ("", False), "for Linux guests only"
    linux = planned("linux", vz_rosetta="true", vz_nested_virtualization="true")
    assert (linux.rosetta_tag, linux.nested) == ("rosetta", True)


@pytest.mark.parametrize(
    ("wanted", "attached"),
    [
        (choices(), plan.NatNetwork()),
        (choices(vz_network="vmnet-shared"), plan.VmnetNetwork(mode=plan.VmnetMode.SHARED)),
        (choices(vz_network="vmnet-host"), plan.VmnetNetwork(mode=plan.VmnetMode.HOST)),
        (
            choices(vz_packet_filter="softnet --vm-fd {fd}"),
            plan.FileHandleNetwork(command=("softnet", "--vm-fd", "{fd}")),
        ),
        (choices("en0", vz_packet_filter="softnet"), plan.BridgedNetwork(interface="en0")),
    ],
)
def test_the_network_is_the_one_that_was_asked_for(wanted: Choices, attached: plan.Network) -> None:
    assert network(wanted) == attached


def test_each_share_is_a_device_of_its_own() -> None:
    shares = (ShareRecord("v0", "/volumes/a"), ShareRecord("v1", "/volumes/b", read_only=True))
    got = machine_plan(record(shares=shares), DIRECTORY, choices(), MAC)
    assert [(share.tag, share.is_single) for share in got.shares] == [("v0", True), ("v1", True)]
    assert got.shares[1].directories == (plan.SharedDirectory(path="/volumes/b", read_only=True),)


def test_a_macos_image_without_a_hardware_model_says_how_to_push_it() -> None:
    with pytest.raises(InvalidInput, match="--hardware-model"):
        machine_plan(record(hardware_model=b""), DIRECTORY, choices(), MAC)
