"""Plans become configurations of the framework, device by device, on every supported macOS."""

import dataclasses
import importlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import VERSIONS, MacHost, imported_frameworks
from tests.support.vz_machines import DISK_BYTES, MAC, efi_plan, kernel_plan, machine_directory, macos_plan
from vzkubelet.errors import Conflict, Error, Exhausted, Forbidden, InvalidInput, NotFound, Unsupported
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple, configuration
from vzkubelet.machines.vz.availability import MacOS, check_host
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.identity import IdentityLock
from vzkubelet.machines.vz.plan import (
    AUTOMOUNT_TAG,
    MIB,
    Audio,
    BridgedNetwork,
    Disk,
    DiskCaching,
    DiskSynchronization,
    Display,
    FileHandleNetwork,
    FileSystemShare,
    Identity,
    IdentityPolicy,
    MachinePlan,
    MacOSBoot,
    SharedDirectory,
    VmnetNetwork,
)

USB_POINTER = "VZUSBScreenCoordinatePointingDeviceConfiguration"


@dataclasses.dataclass(frozen=True)
class Mac:
    """A host in this process, one machine's directory on it, and what the framework made of a plan."""

    host: MacHost
    directory: MachineDirectory
    macos: MacOS

    def build(self, plan: MachinePlan, descriptor: int | None = None) -> configuration.Built:
        situation = Situation(Operation.CONFIGURE, plan.is_macos, self.macos)
        return configuration.build(plan, self.directory, self.macos, situation, descriptor)

    def described(self, plan: MachinePlan, descriptor: int | None = None) -> Any:
        """The double's own view of the validated configuration."""
        built = self.build(plan, descriptor)
        return importlib.import_module("vzdouble.describing").describe(built.configuration)


def open_mac(tmp_path: Path, **settings: Any) -> Iterator[Mac]:
    host = MacHost(tmp_path / "mac", **settings)
    with imported_frameworks(host):
        yield Mac(host, machine_directory(tmp_path), apple.host())
    host.check()


@pytest.fixture(params=VERSIONS, ids=lambda version: ".".join(map(str, version)))
def mac(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mac]:
    yield from open_mac(tmp_path, version=list(request.param), nested=True)


@pytest.fixture
def sequoia(tmp_path: Path) -> Iterator[Mac]:
    """One version, for what does not depend on it."""
    yield from open_mac(tmp_path, version=[15, 1])


@pytest.fixture
def ventura(tmp_path: Path) -> Iterator[Mac]:
    yield from open_mac(tmp_path, version=[13, 5])


def refused(mac: Mac, plan: MachinePlan) -> Error:
    with pytest.raises(Error) as caught:
        mac.build(plan)
    return caught.value


# --- Guests --------------------------------------------------------------------------------------------------------


def test_a_macos_guest_has_every_device_that_it_needs(mac: Mac) -> None:
    plan = macos_plan()
    found = mac.described(plan)
    assert isinstance(plan.boot, MacOSBoot)
    assert found.kind == "macos"
    assert (found.cpus, found.memory_bytes) == (4, 4096 * MIB)
    assert found.boot.auxiliary_storage == str(mac.directory.aux)
    assert bytes.fromhex(found.hardware_model) == plan.boot.hardware_model
    assert bytes.fromhex(found.machine_id) == plan.identity.machine_id
    assert [(disk.path, disk.read_only, disk.bus) for disk in found.disks] == [
        (str(mac.directory.disk_raw), False, "virtio")
    ]
    assert (found.disks[0].caching, found.disks[0].synchronization) == (0, 1)  # automatic, full
    assert [(nic.mac, nic.kind) for nic in found.nics] == [(MAC, "nat")]
    assert [(one.width_px, one.height_px, one.pixels_per_inch) for one in found.displays] == [(1024, 768, 72)]
    mac_keyboard = ("VZMacKeyboardConfiguration",) if mac.macos >= MacOS(14) else ()
    assert found.keyboards == ("VZUSBKeyboardConfiguration", *mac_keyboard)
    assert found.pointing_devices == (USB_POINTER, "VZMacTrackpadConfiguration")
    assert found.audio_streams == ("VZVirtioSoundDeviceOutputStreamConfiguration",)
    assert [(port.path, port.append) for port in found.serial_ports] == [(str(mac.directory.console), True)]
    assert (found.entropy, found.balloon, found.vsock, found.nested) == (True, True, True, False)
    assert (found.shares, found.console_ports) == ((), ())


def test_a_linux_guest_boots_by_firmware_without_the_devices_of_a_mac(mac: Mac) -> None:
    found = mac.described(efi_plan(audio=Audio.OFF))
    assert found.kind == "linux-efi"
    assert found.boot.variable_store == str(mac.directory.path / "efi.vars")
    assert (mac.directory.path / "efi.vars").stat().st_size
    assert found.disks[0].caching == 2  # cached, or its file system gets damaged
    assert (found.displays, found.keyboards, found.pointing_devices, found.audio_streams) == ((), (), (), ())
    assert (found.entropy, found.balloon, found.vsock) == (True, True, True)


def test_the_variable_store_of_an_image_is_kept(sequoia: Mac) -> None:
    sequoia.build(efi_plan())
    before = (sequoia.directory.path / "efi.vars").read_bytes()
    sequoia.build(efi_plan())
    assert (sequoia.directory.path / "efi.vars").read_bytes() == before


def test_a_linux_guest_boots_its_kernel_directly(mac: Mac) -> None:
    found = mac.described(kernel_plan(mac.directory))
    assert found.kind == "linux-kernel"
    assert found.boot.kernel == str(mac.directory.path / "vmlinuz")
    assert found.boot.initial_ramdisk == str(mac.directory.path / "initrd")
    assert found.boot.command_line == "console=hvc0"


def test_a_linux_guest_has_a_display_on_demand(mac: Mac) -> None:
    found = mac.described(efi_plan(display=Display(width_px=1280, height_px=800)))
    assert [(one.width_px, one.height_px) for one in found.displays] == [(1280, 800)]
    assert found.keyboards == ("VZUSBKeyboardConfiguration",)
    assert found.pointing_devices == (USB_POINTER,)


def test_a_suspendable_mac_has_only_devices_that_can_be_saved(mac: Mac) -> None:
    plan = macos_plan(suspendable=True, audio=Audio.HOST)
    if mac.macos < MacOS(14):
        assert "macOS 14" in refused(mac, plan).message
        return
    found = mac.described(plan)
    assert found.keyboards == ("VZMacKeyboardConfiguration",)
    assert found.pointing_devices == ("VZMacTrackpadConfiguration",)
    assert found.audio_streams == ("VZVirtioSoundDeviceOutputStreamConfiguration",)
    assert not found.entropy


@pytest.mark.parametrize(
    ("audio", "streams"),
    [
        (Audio.OFF, ()),
        (Audio.SILENT, ("VZVirtioSoundDeviceOutputStreamConfiguration",)),
        (
            Audio.HOST,
            ("VZVirtioSoundDeviceInputStreamConfiguration", "VZVirtioSoundDeviceOutputStreamConfiguration"),
        ),
    ],
)
def test_sound_is_off_silent_or_the_hosts(sequoia: Mac, audio: Audio, streams: tuple[str, ...]) -> None:
    assert sequoia.described(macos_plan(audio=audio)).audio_streams == streams


def test_a_silent_loudspeaker_leads_nowhere(sequoia: Mac) -> None:
    built = sequoia.build(macos_plan()).configuration
    [sound] = built.audioDevices()
    [stream] = sound.streams()
    assert stream.sink() is None


def test_devices_can_be_left_out(sequoia: Mac) -> None:
    found = sequoia.described(macos_plan(entropy=False, balloon=False, vsock=False, console=""))
    assert (found.entropy, found.balloon, found.vsock, found.serial_ports) == (False, False, False, ())


def test_the_display_has_the_size_that_was_asked_for(sequoia: Mac) -> None:
    plan = macos_plan(display=Display(width_px=2560, height_px=1440, pixels_per_inch=144))
    [display] = sequoia.described(plan).displays
    assert (display.width_px, display.height_px, display.pixels_per_inch) == (2560, 1440, 144)


def test_the_console_is_private_and_appended_to(sequoia: Mac) -> None:
    sequoia.directory.console.write_text("from an earlier start\n")
    sequoia.directory.console.chmod(0o600)
    sequoia.build(macos_plan())
    assert sequoia.directory.console.read_text() == "from an earlier start\n"
    sequoia.directory.console.unlink()
    sequoia.build(macos_plan())
    assert sequoia.directory.console.stat().st_mode & 0o777 == 0o600


# --- Disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", DiskCaching)
@pytest.mark.parametrize("synchronization", DiskSynchronization)
def test_every_caching_and_synchronization_mode_is_the_frameworks(
    sequoia: Mac, caching: DiskCaching, synchronization: DiskSynchronization
) -> None:
    [disk] = sequoia.described(
        macos_plan(disks=(Disk(path="disk.img", caching=caching, synchronization=synchronization),))
    ).disks
    assert disk.caching == ["automatic", "uncached", "cached"].index(caching)
    assert disk.synchronization == ["full", "fsync", "none"].index(synchronization) + 1


def test_further_disks_follow_the_one_that_is_booted(sequoia: Mac) -> None:
    seed = sequoia.directory.path / "seed.iso"
    seed.write_bytes(b"\0" * 4096)
    plan = efi_plan(disks=(Disk(path="disk.img"), Disk(path="seed.iso")))
    disks = sequoia.described(plan).disks
    assert [(Path(disk.path).name, disk.read_only) for disk in disks] == [("disk.img", False), ("seed.iso", False)]


def test_a_disk_that_was_cut_off_is_told_with_its_size(sequoia: Mac) -> None:
    with sequoia.directory.disk_raw.open("r+b") as disk:
        disk.truncate(DISK_BYTES - 100)
    error = refused(sequoia, macos_plan())
    assert (type(error), error.reason) == (InvalidInput, "InvalidDiskImage")
    assert str(DISK_BYTES - 100) in error.message


def test_a_missing_disk_is_named(sequoia: Mac) -> None:
    sequoia.directory.disk_raw.unlink()
    error = refused(sequoia, macos_plan())
    assert type(error) is NotFound
    assert str(sequoia.directory.disk_raw) in error.message


def test_symbolic_links_are_followed_before_the_framework_sees_them(sequoia: Mac, tmp_path: Path) -> None:
    elsewhere = tmp_path / "volume" / "disk.img"
    elsewhere.parent.mkdir()
    sequoia.directory.disk_raw.rename(elsewhere)
    sequoia.directory.disk_raw.symlink_to(elsewhere)
    assert sequoia.described(macos_plan()).disks[0].path == str(elsewhere)


# --- Shares --------------------------------------------------------------------------------------------------------


def test_shares_have_the_automount_tag_or_their_own(mac: Mac, tmp_path: Path) -> None:
    for name in ("one", "two", "own"):
        (tmp_path / name).mkdir()
    automount = FileSystemShare(
        tag=AUTOMOUNT_TAG,
        directories=(
            SharedDirectory(path=str(tmp_path / "one"), name="one"),
            SharedDirectory(path=str(tmp_path / "two"), name="two", read_only=True),
        ),
    )
    own = FileSystemShare(tag="own", directories=(SharedDirectory(path=str(tmp_path / "own")),))
    first, second = mac.described(macos_plan(shares=(automount, own))).shares
    assert first.tag == AUTOMOUNT_TAG
    assert {name: (one.path, one.read_only) for name, one in first.directories.items()} == {
        "one": (str(tmp_path / "one"), False),
        "two": (str(tmp_path / "two"), True),
    }
    assert second.tag == "own"
    assert [one.path for one in second.directories.values()] == [str(tmp_path / "own")]


def test_a_share_may_be_empty_at_first(sequoia: Mac) -> None:
    [share] = sequoia.described(macos_plan(shares=(FileSystemShare(tag=AUTOMOUNT_TAG),))).shares
    assert share.directories == {}


@pytest.mark.parametrize("tag", ["", "x" * 36, "é" * 18])
def test_a_bad_tag_is_told(sequoia: Mac, tag: str) -> None:
    error = refused(sequoia, macos_plan(shares=(FileSystemShare(tag=tag),)))
    assert type(error) is InvalidInput
    assert repr(tag) in error.message


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_a_bad_name_in_a_share_is_told_and_raises_no_exception_in_the_framework(
    sequoia: Mac, name: str, tmp_path: Path
) -> None:
    directories = (SharedDirectory(path=str(tmp_path), name=name), SharedDirectory(path=str(tmp_path), name="fine"))
    error = refused(sequoia, macos_plan(shares=(FileSystemShare(tag="t", directories=directories),)))
    assert type(error) is InvalidInput
    assert repr(name) in error.message


def test_equal_names_in_a_share_and_equal_tags_are_told(sequoia: Mac, tmp_path: Path) -> None:
    twice = (SharedDirectory(path=str(tmp_path), name="same"), SharedDirectory(path="/", name="same"))
    assert "'same'" in refused(sequoia, macos_plan(shares=(FileSystemShare(tag="t", directories=twice),))).message
    assert (
        "one tag" in refused(sequoia, macos_plan(shares=(FileSystemShare(tag="t"), FileSystemShare(tag="t")))).message
    )


def test_a_shared_directory_that_is_not_there_is_named(sequoia: Mac, tmp_path: Path) -> None:
    share = FileSystemShare(tag="t", directories=(SharedDirectory(path=str(tmp_path / "gone")),))
    error = refused(sequoia, macos_plan(shares=(share,)))
    assert type(error) is NotFound
    assert str(tmp_path / "gone") in error.message


def test_rosetta_is_shared_with_linux_guests(mac: Mac) -> None:
    [share] = mac.described(efi_plan(rosetta_tag="rosetta")).shares
    assert (share.tag, share.rosetta) == ("rosetta", True)
    assert "Linux guests only" in refused(mac, macos_plan(rosetta_tag="rosetta")).message


def test_rosetta_that_is_not_installed_is_installed_by_a_command(sequoia: Mac) -> None:
    sequoia.host.configure(rosetta="not-installed")
    assert (
        "`softwareupdate --install-rosetta --agree-to-license`"
        in refused(sequoia, efi_plan(rosetta_tag="rosetta")).message
    )
    sequoia.host.configure(rosetta="not-supported")
    assert type(refused(sequoia, efi_plan(rosetta_tag="rosetta"))) is Unsupported


# --- Network -------------------------------------------------------------------------------------------------------


def test_a_guest_is_bridged_to_the_interface_by_name(mac: Mac) -> None:
    mac.host.configure(
        entitlements=["com.apple.security.virtualization", "com.apple.vm.networking"],
        interfaces=[{"identifier": "en0", "name": "Ethernet"}, {"identifier": "vlan0", "name": "VLAN 7"}],
    )
    [nic] = mac.described(macos_plan(network=BridgedNetwork(interface="vlan0"))).nics
    assert (nic.kind, nic.interface, nic.mac) == ("bridged", "vlan0", MAC)


def test_bridging_without_the_entitlement_is_explained(sequoia: Mac) -> None:
    error = refused(sequoia, macos_plan(network=BridgedNetwork(interface="en0")))
    assert type(error) is Forbidden
    assert "com.apple.vm.networking" in error.message
    assert "NAT" in error.message


def test_a_network_of_ones_own_needs_macos_26(ventura: Mac) -> None:
    assert "macOS 26" in refused(ventura, macos_plan(network=VmnetNetwork())).message


def test_frames_go_to_the_socket_of_a_packet_filter(mac: Mac) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        [nic] = mac.described(macos_plan(network=FileHandleNetwork(command=("softnet",))), ours.fileno()).nics
    assert nic.kind == "file-handle"


@pytest.mark.parametrize("mac_address", ["", "02:00:00:00:00", "no"])
def test_a_malformed_mac_address_is_told(sequoia: Mac, mac_address: str) -> None:
    error = refused(sequoia, macos_plan(mac=mac_address))
    assert type(error) is InvalidInput
    assert repr(mac_address) in error.message


# --- Platform ------------------------------------------------------------------------------------------------------


def test_linux_guests_nest_from_macos_15_on(mac: Mac) -> None:
    plan = efi_plan(nested=True)
    if mac.macos < MacOS(15):
        assert "macOS 15" in refused(mac, plan).message
    else:
        assert mac.described(plan).nested
    assert "cannot nest" in refused(mac, macos_plan(nested=True)).message


def test_a_mac_before_the_m3_cannot_nest(sequoia: Mac) -> None:
    assert "M3" in refused(sequoia, efi_plan(nested=True)).message


def test_a_machine_identifier_is_made_once_and_kept(mac: Mac) -> None:
    plan = macos_plan(identity=Identity(machine_id=b"unused", policy=IdentityPolicy.RANDOM))
    made = mac.described(plan).machine_id
    assert bytes.fromhex(made) == mac.directory.machine_id.read_bytes()
    assert mac.described(plan).machine_id == made


def test_a_linux_guest_keeps_its_identifier_too(sequoia: Mac) -> None:
    assert sequoia.described(efi_plan()).machine_id == sequoia.described(efi_plan()).machine_id != ""


def test_a_damaged_machine_identifier_is_told(sequoia: Mac) -> None:
    error = refused(sequoia, macos_plan(identity=Identity(machine_id=b"garbage")))
    assert "--vz-machine-id random" in error.message


def test_a_damaged_hardware_model_is_told(sequoia: Mac) -> None:
    boot = MacOSBoot(hardware_model=b"garbage", auxiliary_storage="aux.img")
    error = refused(sequoia, macos_plan(boot=boot))
    assert (type(error), error.reason) == (InvalidInput, "InvalidImage")


def test_a_hardware_model_of_a_newer_macos_is_told(mac: Mac) -> None:
    newer = importlib.import_module("vzdouble.identity").hardware_model_data(minimum_os=(99, 0, 0))
    error = refused(mac, macos_plan(boot=MacOSBoot(hardware_model=newer, auxiliary_storage="aux.img")))
    assert (type(error), error.reason) == (Unsupported, "HardwareModelUnsupported")
    assert str(mac.macos) in error.message
    assert "`softwareupdate --list`" in error.message


def test_auxiliary_storage_of_another_hardware_model_is_told(sequoia: Mac) -> None:
    vz = apple.frameworks().Virtualization
    other = importlib.import_module("vzdouble.identity").hardware_model_data(platform_version=1)
    model = vz.VZMacHardwareModel.alloc().initWithDataRepresentation_(apple.data(other))
    created, _ = vz.VZMacAuxiliaryStorage.alloc().initCreatingStorageAtURL_hardwareModel_options_error_(
        apple.file_url(sequoia.directory.aux), model, 1, None
    )
    assert created is not None
    error = refused(sequoia, macos_plan())
    assert (type(error), error.reason) == (InvalidInput, "AuxiliaryStorageMismatch")
    assert "image push" in error.message


def test_missing_auxiliary_storage_is_named(sequoia: Mac) -> None:
    sequoia.directory.aux.unlink()
    error = refused(sequoia, macos_plan())
    assert type(error) is NotFound
    assert str(sequoia.directory.aux) in error.message


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\0", b"MZ\0\0zimg"])
def test_a_compressed_kernel_is_told_instead_of_hanging(sequoia: Mac, head: bytes) -> None:
    plan = kernel_plan(sequoia.directory)
    (sequoia.directory.path / "vmlinuz").write_bytes(head + b"\0" * 100)
    assert "compressed" in refused(sequoia, plan).message


def test_a_missing_ramdisk_is_named(sequoia: Mac) -> None:
    plan = kernel_plan(sequoia.directory)
    (sequoia.directory.path / "initrd").unlink()
    assert str(sequoia.directory.path / "initrd") in refused(sequoia, plan).message


# --- Host ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpus": 99}, "1 to 8"),
        ({"cpus": 0}, "1 to 8"),
        ({"memory_bytes": 1 << 50}, "4Mi to 16384Mi"),
        ({"memory_bytes": MIB}, "4Mi to 16384Mi"),
        ({"memory_bytes": 4096 * MIB + 1}, "multiple of 1Mi"),
    ],
)
def test_a_size_that_the_host_does_not_have_is_told_with_its_bounds(
    sequoia: Mac, changes: dict[str, int], words: str
) -> None:
    error = refused(sequoia, macos_plan(**changes))
    assert type(error) is InvalidInput
    assert words in error.message


def test_an_unsigned_interpreter_is_told_to_be_signed(mac: Mac) -> None:
    mac.host.configure(entitlements=[])
    error = refused(mac, macos_plan())
    assert (type(error), error.reason) == (Forbidden, "NotEntitled")
    assert "`macos-vz-kubelet sign`" in error.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1, Error), (2, InvalidInput), (5, InvalidInput), (8, Exhausted), (10, Unsupported), (3, Conflict)],
)
@pytest.mark.parametrize(
    "call",
    [
        "validateWithError:",
        "initWithURL:readOnly:cachingMode:synchronizationMode:error:",
        "initWithURL:append:error:",
        "initCreatingVariableStoreAtURL:options:error:",
    ],
)
def test_every_error_of_every_call_is_translated(sequoia: Mac, call: str, code: int, kind: type[Error]) -> None:
    sequoia.host.fail(call, code=code)
    error = refused(sequoia, efi_plan())
    assert isinstance(error, kind)
    assert f"VZErrorDomain {code}" in error.message
    assert not sequoia.host.pending_faults()


def test_a_save_that_the_devices_forbid_is_told_when_building(sequoia: Mac) -> None:
    sequoia.host.fail("validateSaveRestoreSupportWithError:", code=10, reason="No.")
    assert "cannot save" in refused(sequoia, macos_plan(suspendable=True)).message


def test_the_identifiers_of_an_image_are_used_by_one_machine_at_a_time(tmp_path: Path) -> None:
    def lock(policy: IdentityPolicy, machine_id: bytes = b"image") -> IdentityLock:
        return IdentityLock(Identity(machine_id=machine_id, policy=policy, locks=str(tmp_path / "identities")))

    first = lock(IdentityPolicy.KEEP)
    first.take()
    alone = lock(IdentityPolicy.FAIL_IF_RUNNING)
    with pytest.raises(Exhausted, match="--vz-machine-id random") as caught:
        alone.take()
    assert caught.value.reason == "MachineIdentityInUse"
    lock(IdentityPolicy.FAIL_IF_RUNNING, b"another image").take()
    lock(IdentityPolicy.RANDOM).take()
    first.release()
    alone.take()
    with pytest.raises(Exhausted):
        lock(IdentityPolicy.FAIL_IF_RUNNING).take()
    alone.release()


def test_a_machine_that_met_one_alone_is_seen_when_that_has_ended(tmp_path: Path) -> None:
    def lock(policy: IdentityPolicy) -> IdentityLock:
        return IdentityLock(Identity(machine_id=b"image", policy=policy, locks=str(tmp_path)))

    alone, other = lock(IdentityPolicy.FAIL_IF_RUNNING), lock(IdentityPolicy.KEEP)
    alone.take()
    other.take()  # whatever else runs
    alone.release()
    with pytest.raises(Exhausted):
        lock(IdentityPolicy.FAIL_IF_RUNNING).take()
    other.release()
    lock(IdentityPolicy.FAIL_IF_RUNNING).take()


def test_an_intel_mac_gets_words_and_no_missing_attribute(tmp_path: Path) -> None:
    host = MacHost(tmp_path / "mac", version=[14, 4], arch="x86_64")
    with imported_frameworks(host):
        found = apple.host()
        assert found.architecture == "x86_64"
        with pytest.raises(Unsupported, match="Intel"):
            check_host(found)
        with pytest.raises(Unsupported, match="Intel"):
            apple.supported_host()


def test_a_host_that_cannot_run_machines_is_told(sequoia: Mac) -> None:
    sequoia.host.configure(supported=False)
    with pytest.raises(Unsupported, match=r"kern\.hv_support"):
        apple.supported_host()


def test_a_process_of_an_older_sdk_knows_macos_26(tmp_path: Path) -> None:
    host = MacHost(tmp_path / "mac", version=[26, 0], reported_version=[16, 0])
    with imported_frameworks(host):
        assert apple.host() == MacOS(26)
