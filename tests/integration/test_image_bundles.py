"""Virtual machines of other tools into the store and back: what is kept, what is refused, what is left behind."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import vm_bundles
from tests.support.vm_bundles import HARDWARE_MODEL, MAC_ADDRESS, MACHINE_ID, MIB
from tests.support.xfs_volume import xfs_volume
from vzkubelet.errors import (
    AlreadyExists,
    Conflict,
    Error,
    Exhausted,
    InvalidInput,
    NotFound,
    Unsupported,
)
from vzkubelet.images import bundles
from vzkubelet.images.bundles import Bundle, Tool, ecid
from vzkubelet.images.formats.artifact import Display, Machine
from vzkubelet.images.library import Library
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse

GIB = 1024 * MIB
TARGET = parse("localhost/vm:1")


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def leftovers(root: Path) -> list[str]:
    staged = [str(path) for path in (root / "staging").rglob("*")] if root.exists() else []
    return staged + [str(path) for path in root.parent.rglob(".staging-*")]


# --- What is read


@pytest.mark.parametrize("kind", vm_bundles.MAC_BUNDLES)
def test_boot_data_and_hints_of_a_mac_are_kept(kind: str, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.MAC_BUNDLES[kind](tmp_path / "vm"))
    bundles.check(bundle)
    machine = bundle.machine
    assert bundle.kind == kind
    assert (machine.os, machine.architecture) == ("darwin", "arm64")
    assert (machine.hardware_model, machine.machine_id) == (HARDWARE_MODEL, MACHINE_ID)
    assert (machine.cpu_count, machine.memory_bytes, machine.mac_address) == (6, 12 * GIB, MAC_ADDRESS)
    assert machine.display is not None
    assert (machine.display.width, machine.display.height) == (1920, 1200)
    assert bundle.aux is not None
    assert (bundle.disk.stat().st_size, bundle.aux.stat().st_size > 100_000) == (8 * MIB, True)


def test_minimum_of_the_tools_that_know_one(tmp_path: Path) -> None:
    for make in (vm_bundles.created, vm_bundles.tart):
        machine = bundles.read(make(tmp_path / make.__name__)).machine
        assert (machine.cpu_min > 0, machine.memory_min_bytes) == (True, 4 * GIB)


@pytest.mark.parametrize(("make", "architecture"), [(vm_bundles.utm_linux, "arm64"), (vm_bundles.utm_qemu, "amd64")])
def test_linux_guests_of_utm(make: Callable[[Path], Path], architecture: str, tmp_path: Path) -> None:
    bundle = bundles.read(make(tmp_path / "vm.utm"))
    bundles.check(bundle)
    assert (bundle.machine.os, bundle.machine.architecture) == ("linux", architecture)
    assert bundle.machine.machine_id == (b"generic" if make is vm_bundles.utm_linux else b"")
    assert bundle.aux == tmp_path / "vm.utm" / "Data" / "efi_vars.fd"


def test_linux_guest_of_virtualbuddy(tmp_path: Path) -> None:
    directory = vm_bundles.virtualbuddy(tmp_path / "vm.vbvm", systemType="linux")
    vm_bundles.aux(directory / ".vbdata" / "nvram")
    for name in ("HardwareModel", "MachineIdentifier", "AuxiliaryStorage"):
        (directory / name).unlink()
    bundle = bundles.read(directory)
    bundles.check(bundle)
    assert (bundle.machine.os, bundle.aux) == ("linux", directory / ".vbdata" / "nvram")


def test_linux_guest_of_tart(tmp_path: Path) -> None:
    directory = vm_bundles.tart(
        tmp_path / "vm", os="linux", arch="amd64", ecid="", hardwareModel="", machineIdentifier="aWRlbnRpZmllcg=="
    )
    bundle = bundles.read(directory)
    machine = bundle.machine
    assert (machine.os, machine.architecture, machine.machine_id) == ("linux", "amd64", b"identifier")
    assert exported(bundle, tmp_path / "out", Tool.TART).machine == machine


def test_the_document_itself_may_be_named(tmp_path: Path) -> None:
    directory = vm_bundles.macosvm(tmp_path / "vm")
    (directory / "vm.json").rename(directory / "sequoia.json")
    assert bundles.read(directory / "sequoia.json").machine.hardware_model == HARDWARE_MODEL


def test_the_machine_identifier_is_found_in_the_auxiliary_storage(tmp_path: Path) -> None:
    """Hazard: an import that the guest does not boot from, because only the firmware still knew its ECID."""
    directory = vm_bundles.macosvm(tmp_path / "vm", machineId="")
    assert bundles.read(directory).machine.machine_id == MACHINE_ID
    assert ecid.machine_id(vm_bundles.aux(tmp_path / "without")) == b""
    (tmp_path / "cut").write_bytes(b"\0\x04ECID\x02\x08\1\2")
    assert ecid.machine_id(tmp_path / "cut") == b""


def test_a_mac_without_its_identifier_is_told_what_to_give(tmp_path: Path) -> None:
    directory = vm_bundles.macosvm(tmp_path / "vm", machineId="")
    vm_bundles.aux(directory / "aux.img")
    with pytest.raises(InvalidInput, match="--machine-id"):
        bundles.check(bundles.read(directory))


# --- What is refused


def change(directory: Path, name: str, **changes: Any) -> None:
    document = json.loads((directory / name).read_text())
    (directory / name).write_text(json.dumps(document | changes))


def escapes(directory: Path) -> Iterator[tuple[Path, str]]:
    """Bundles whose documents or links lead out of them."""
    secret = directory / "secret"
    secret.write_bytes(bytes(512))
    storage = [{"type": "disk", "file": "../secret"}, {"type": "aux", "file": "aux.img"}]
    yield vm_bundles.macosvm(directory / "a", storage=storage), "no part of the bundle"
    storage = [{"type": "disk", "file": str(secret)}, {"type": "aux", "file": "aux.img"}]
    yield vm_bundles.macosvm(directory / "b", storage=storage), "no part of the bundle"
    linked = vm_bundles.tart(directory / "c")
    (linked / "nvram.bin").unlink()
    (linked / "nvram.bin").symlink_to(secret)
    yield linked, "no part of the bundle"
    media_type = "application/vnd.agoda.macosvz.{}.v1"
    files = [
        {"mediatype": media_type.format("aux.image"), "file": "x/../../secret"},
        {"mediatype": media_type.format("disk.image"), "file": "disk.img"},
    ]
    yield vm_bundles.created(directory / "d", storage=files), "no part of the bundle"
    drive = [{"Identifier": "1", "ImageName": "../../secret", "ReadOnly": False}]
    yield vm_bundles.utm(directory / "e", Drive=drive), "no plain file name"
    linked = vm_bundles.utm(directory / "f")
    shutil.rmtree(linked / "Data")
    (linked / "Data").symlink_to(vm_bundles.utm(directory / "other") / "Data")
    yield linked, "no part of the bundle"
    linked = vm_bundles.lume(directory / "g")
    (linked / "config.json").rename(directory / "config.json")
    (linked / "config.json").symlink_to(directory / "config.json")
    yield linked, "no part of the bundle"


def test_nothing_outside_a_bundle_is_taken_into_an_image(tmp_path: Path) -> None:
    """Hazard: a bundle from elsewhere whose disk is a link to a file of this host, which is then published."""
    for directory, words in escapes(tmp_path):
        with pytest.raises(InvalidInput, match=words):
            bundles.read(directory)


REFUSED: list[tuple[str, Callable[[Path], object], type[Error], str]] = [
    ("suspended in tart", lambda vm: (vm_bundles.tart(vm) / "state.vzvmsave").touch(), Conflict, "is suspended"),
    ("stacked in tart", lambda vm: (vm_bundles.tart(vm) / "overlay.asif").touch(), Unsupported, "stacked"),
    ("ASIF in tart", lambda vm: vm_bundles.tart(vm, diskFormat="asif"), Unsupported, "format asif"),
    ("windows in tart", lambda vm: vm_bundles.tart(vm, os="windows"), Unsupported, "neither darwin nor linux"),
    ("no disk", lambda vm: (vm_bundles.tart(vm) / "disk.img").unlink(), NotFound, "disk.img does not exist"),
    ("empty aux", lambda vm: (vm_bundles.tart(vm) / "nvram.bin").write_bytes(b""), InvalidInput, "is empty"),
    ("being set up by lume", lambda vm: (vm_bundles.lume(vm) / ".provisioning").touch(), Conflict, "being set up"),
    ("suspended in UTM", lambda vm: (vm_bundles.utm(vm) / "Data" / "vmstate").touch(), Conflict, "is suspended"),
    ("old UTM", lambda vm: vm_bundles.utm(vm, ConfigurationVersion=3), Unsupported, "version 3"),
    ("BIOS in UTM", lambda vm: vm_bundles.utm_qemu(vm, {"UEFIBoot": False}), Unsupported, "BIOS"),
    ("two disks in UTM", lambda vm: vm_bundles.utm(vm, Drive=[]), InvalidInput, "0 writable disks"),
    ("kernel boot", lambda vm: vm_bundles.macosvm(vm, os="linux"), Unsupported, "kernel"),
    (
        "two disks",
        lambda vm: vm_bundles.macosvm(
            vm, storage=[{"type": "disk", "file": "disk.img"}] * 2 + [{"type": "aux", "file": "aux.img"}]
        ),
        InvalidInput,
        "2 entries of type disk",
    ),
    (
        "network disk",
        lambda vm: vm_bundles.macosvm(
            vm, storage=[{"type": "disk", "url": "nbd://host"}, {"type": "aux", "file": "aux.img"}]
        ),
        Unsupported,
        "no file of this host",
    ),
    ("processors", lambda vm: vm_bundles.macosvm(vm, cpus=5000), InvalidInput, "more than any machine"),
    ("negative", lambda vm: vm_bundles.tart(vm, cpuCount=-1), InvalidInput, "negative"),
    ("saved session", lambda vm: (vm_bundles.virtualbuddy(vm) / "SavedSession").mkdir(), Conflict, "saved session"),
    ("custom disk", lambda vm: virtualbuddy_disk(vm, {"customImage": {"_0": {}}}), Unsupported, "outside its bundle"),
    (
        "unknown disk",
        lambda vm: virtualbuddy_disk(vm, {"managedImage": {"_0": {"filename": "Disk", "format": -1}}}),
        Unsupported,
        "format -1",
    ),
    ("no JSON", lambda vm: (vm_bundles.tart(vm) / "config.json").write_text("{"), InvalidInput, "as its tool writes"),
    ("no base64", lambda vm: vm_bundles.lume(vm, hardwareModel="%%"), InvalidInput, "as its tool writes"),
    ("no plist", lambda vm: (vm_bundles.utm(vm) / "config.plist").write_text("<x"), InvalidInput, "as its tool writes"),
    (
        "huge document",
        lambda vm: (vm_bundles.tart(vm) / "config.json").write_bytes(bytes(2 * MIB)),
        InvalidInput,
        "1 MiB",
    ),
    ("a FIFO", lambda vm: fifo(vm_bundles.tart(vm) / "disk.img"), InvalidInput, "no regular file"),
    ("unknown config.json", lambda vm: vm_bundles.write_json(vm / "config.json", {"a": 1}), Unsupported, "no tool"),
    ("empty", lambda vm: vm.mkdir(), InvalidInput, "is empty"),
    ("something else", lambda vm: vm_bundles.disk(vm / "disk.img"), Unsupported, "no virtual machine that is known"),
    ("nothing", lambda _: None, NotFound, "does not exist"),
    ("odd disk", lambda vm: vm.write_bytes(bytes(513)), InvalidInput, "513 bytes are no whole number of sectors"),
    ("ASIF", lambda vm: vm.write_bytes(b"shdw" + bytes(1020)), Unsupported, "ASIF"),
    ("VMDK", lambda vm: vm.write_bytes(b"KDMV" + bytes(1020)), Unsupported, "VMDK"),
    ("UDIF", lambda vm: vm.write_bytes(bytes(512) + b"koly" + bytes(508)), Unsupported, "UDIF"),
    ("gzip", lambda vm: vm.write_bytes(b"\x1f\x8b\x08" + bytes(1021)), Unsupported, "gunzip"),
]


def virtualbuddy_disk(vm: Path, backing: dict[str, object]) -> None:
    vm_bundles.virtualbuddy(vm, hardware={"_storageDevices": [{"isBootVolume": True, "backing": backing}]})


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "kind", "words"), [entry[1:] for entry in REFUSED], ids=[entry[0] for entry in REFUSED]
)
def test_what_makes_no_image_is_refused_with_the_reason(
    make: Callable[[Path], object], kind: type[Error], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "vm")
    with pytest.raises(kind, match=words) as caught:
        bundles.read(tmp_path / "vm")
    assert type(caught.value) is kind
    assert str(tmp_path / "vm") in str(caught.value)


def test_a_disk_alone_needs_the_rest(tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.disk(tmp_path / "vm.raw"))
    linux = replace(bundle, machine=Machine("linux", "amd64"))
    with pytest.raises(InvalidInput, match=r"UEFI variables.*--aux-path"):
        bundles.check(linux)
    darwin = replace(bundle, machine=Machine("darwin", "arm64"), aux=vm_bundles.aux(tmp_path / "aux"))
    with pytest.raises(InvalidInput, match="--hardware-model"):
        bundles.check(darwin)
    bundles.check(replace(linux, aux=darwin.aux))


LOCK = """
import fcntl, sys, time
file = open(sys.argv[2], "r+b")
getattr(fcntl, sys.argv[1])(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("make", "name", "lock"),
    [
        (vm_bundles.tart, "config.json", "lockf"),
        (vm_bundles.lume, "config.json", "flock"),
        (vm_bundles.utm, "Data/AuxiliaryStorage", "lockf"),
        (vm_bundles.macosvm, "disk.img", "flock"),
    ],
)
def test_a_running_machine_is_not_imported(make: Callable[[Path], Path], name: str, lock: str, tmp_path: Path) -> None:
    """Hazard: an image of a disk in the middle of being written."""
    directory = make(tmp_path / "vm")
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, lock, str(directory / name)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(Conflict, match="is running"):
                bundles.read(directory)
        finally:
            holder.kill()
    bundles.read(directory)


def test_a_disk_that_qemu_writes_is_not_imported(tmp_path: Path) -> None:
    disk = vm_bundles.disk(tmp_path / "vm.raw")
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=0
    ) as writer:
        try:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write("length\n")
            assert "MiB" in writer.stdout.readline()
            with pytest.raises(Conflict, match="is running"):
                bundles.read(disk)
        finally:
            writer.kill()
    with disk.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)  # who only reads does no harm
        bundles.read(disk)


# --- Into the store


def same(first: Path, second: Path) -> bool:
    return first.read_bytes() == second.read_bytes()


async def test_an_import_is_an_image_like_any_other(store: Store, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))
    before = {path.name: path.stat().st_mtime_ns for path in bundle.path.iterdir()}
    bundles.import_bundle(store, bundle, TARGET, silent)
    image = await Library(store.root).find(str(TARGET))
    assert image is not None
    assert bundle.aux is not None
    assert same(image.disk, bundle.disk)
    assert same(image.aux, bundle.aux)
    assert image.disk.stat().st_blocks < 2 * MIB // 512 * 2, "the hole was filled"
    assert image.disk.stat().st_mode & 0o222 == 0
    assert (image.hardware_model, image.machine_id, image.os) == (HARDWARE_MODEL, MACHINE_ID, "darwin")
    assert {path.name: path.stat().st_mtime_ns for path in bundle.path.iterdir()} == before
    assert leftovers(store.root) == []
    found = store.find(TARGET)
    assert found is not None
    assert found[1].machine == bundle.machine


def test_what_was_imported_before_is_not_read_again(store: Store, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))
    first = bundles.import_bundle(store, bundle, TARGET, silent)
    told: list[str] = []
    again = bundles.import_bundle(store, bundle, parse("localhost/vm:2"), lambda stage, *_: told.append(stage))
    assert (again, told) == (first, [])
    vm_bundles.disk(tmp_path / "vm" / "disk.img", seed=9)
    changed = bundles.import_bundle(store, bundle, TARGET, silent)
    assert changed.disk != first.disk
    assert changed.aux == first.aux


def test_equal_machines_are_one_image(store: Store, tmp_path: Path) -> None:
    records = [
        bundles.import_bundle(store, bundles.read(vm_bundles.tart(tmp_path / name)), TARGET, silent)
        for name in ("a", "b")
    ]
    assert records[0] == records[1]
    assert len(list((store.root / "content" / "sha256").glob("*.json"))) == 2


def test_a_qcow2_disk_becomes_a_raw_one(store: Store, tmp_path: Path) -> None:
    directory = vm_bundles.utm_qemu(tmp_path / "vm.utm")
    disk = directory / "Data" / "0F4B.img"
    raw = disk.rename(tmp_path / "disk.raw")
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", raw, disk], check=True)
    record = bundles.import_bundle(store, bundles.read(directory), TARGET, silent)
    stored = store.content_path(record.disk.digest)
    assert same(stored, raw)
    assert stored.stat().st_blocks * 512 < 3 * MIB


def test_a_suspended_qcow2_disk_is_refused(tmp_path: Path) -> None:
    """Hazard: UTM keeps the memory of a suspended guest inside the disk, whose file systems are then in use."""
    directory = vm_bundles.utm_qemu(tmp_path / "vm.utm")
    disk = directory / "Data" / "0F4B.img"
    disk.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "suspend", disk], check=True)
    bundles.read(directory)  # a snapshot of the disk alone is none of our business
    content = bytearray(disk.read_bytes())
    at = int.from_bytes(content[64:72], "big")
    content[at + 32 : at + 36] = (4096).to_bytes(4, "big")
    disk.write_bytes(content)
    with pytest.raises(Conflict, match="is suspended"):
        bundles.read(directory)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_import_leaves_nothing(store: Store, tmp_path: Path, stop: type[BaseException]) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done > 2 * MIB:
            raise stop

    with pytest.raises(stop):
        bundles.import_bundle(store, bundle, TARGET, interrupt)
    assert store.find(TARGET) is None
    assert leftovers(store.root) == []
    bundles.import_bundle(store, bundle, TARGET, silent)


def test_a_machine_that_is_started_meanwhile_makes_no_image(store: Store, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))

    def write(_stage: str, done: int, _total: int) -> None:
        if done == 8 * MIB:
            with bundle.disk.open("r+b") as disk:
                disk.write(b"x")

    with pytest.raises(Conflict, match="was written to while it was read"):
        bundles.import_bundle(store, bundle, TARGET, write)
    assert store.find(TARGET) is None
    assert leftovers(store.root) == []


def test_a_full_volume_is_told_with_figures_and_left_clean(tmp_path: Path) -> None:
    directory = vm_bundles.tart(tmp_path / "vm")
    (directory / "disk.img").write_bytes(random.Random(3).randbytes(12 * MIB))
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", volume], check=True)
    try:
        store = Store(volume / "images")
        with pytest.raises(Exhausted, match=r"takes \d+ bytes, \d+ bytes are free"):
            bundles.import_bundle(store, bundles.read(directory), TARGET, silent)
        assert leftovers(store.root) == []
        (volume / "ballast").write_bytes(bytes(5 * MIB))
        (directory / "disk.img").write_bytes(bytes(512))
        bundles.import_bundle(store, bundles.read(directory), TARGET, silent)
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_volume_that_becomes_full_is_told_with_figures_and_left_clean(tmp_path: Path) -> None:
    """A compressed disk tells too late how large it is."""
    directory = vm_bundles.utm_qemu(tmp_path / "vm.utm")
    disk, raw = directory / "Data" / "0F4B.img", tmp_path / "raw"
    raw.write_bytes((b"compressible " * MIB)[: 12 * MIB])
    disk.unlink()
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2", raw, disk], check=True)
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", volume], check=True)
    try:
        store = Store(volume / "images")
        with pytest.raises(Exhausted, match=r"No space left on device, \d+ bytes are free"):
            bundles.import_bundle(store, bundles.read(directory), TARGET, silent)
        assert leftovers(store.root) == []
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_digest_is_no_target(store: Store, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))
    with pytest.raises(InvalidInput, match="under a tag"):
        bundles.import_bundle(store, bundle, parse(f"localhost/vm@sha256:{'0' * 64}"), silent)


# --- Back out


def exported(bundle: Bundle, directory: Path, tool: Tool) -> Bundle:
    assert bundle.aux is not None
    bundles.export(bundle.machine, bundle.disk, bundle.aux, directory, tool, silent)
    return bundles.read(directory)


@pytest.mark.parametrize("kind", vm_bundles.MAC_BUNDLES)
@pytest.mark.parametrize("tool", Tool)
def test_an_export_is_what_was_imported(kind: str, tool: Tool, tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.MAC_BUNDLES[kind](tmp_path / "vm"))
    back = exported(bundle, tmp_path / "out", tool)
    bundles.check(back)
    assert same(back.disk, bundle.disk)
    assert back.aux is not None
    assert bundle.aux is not None
    assert same(back.aux, bundle.aux)
    for name in ("os", "architecture", "hardware_model", "machine_id", "cpu_count", "memory_bytes", "mac_address"):
        assert getattr(back.machine, name) == getattr(bundle.machine, name)
    assert back.machine.display is not None
    assert (back.machine.display.width, back.machine.display.height) == (1920, 1200)
    assert back.disk.stat().st_blocks * 512 < 3 * MIB
    assert leftovers(tmp_path) == []


def test_tart_gets_all_that_it_requires(tmp_path: Path) -> None:
    """Hazard: tart refuses a configuration without its required members."""
    machine = Machine("darwin", "arm64", HARDWARE_MODEL, MACHINE_ID, display=Display(100, 200, "pt"))
    disk, aux = vm_bundles.disk(tmp_path / "disk"), vm_bundles.aux(tmp_path / "aux")
    bundles.export(machine, disk, aux, tmp_path / "out", Tool.TART, silent)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    required = {"version", "cpuCountMin", "cpuCount", "memorySizeMin", "memorySize", "macAddress", "ecid"}
    assert required <= document.keys()
    assert document["cpuCount"] >= max(document["cpuCountMin"], 1)
    assert document["memorySize"] >= max(document["memorySizeMin"], GIB)
    first = int(document["macAddress"].split(":")[0], 16)
    assert first & 0b11 == 0b10, "not a locally administered address of one station"
    assert document["display"] == {"width": 100, "height": 200, "unit": "pt"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "disk.img", "nvram.bin"]


def test_macosvm_gets_all_that_it_requires(tmp_path: Path) -> None:
    machine = Machine("darwin", "arm64", HARDWARE_MODEL, MACHINE_ID, cpu_min=8)
    disk, aux = vm_bundles.disk(tmp_path / "disk"), vm_bundles.aux(tmp_path / "aux")
    bundles.export(machine, disk, aux, tmp_path / "out", Tool.MACOSVM, silent)
    document = json.loads((tmp_path / "out" / "vm.json").read_text())
    assert (document["os"], document["cpus"], document["ram"]) == ("macos", 8, 8 * GIB)
    assert [entry["type"] for entry in document["storage"]] == ["disk", "aux"]


def test_an_export_goes_over_nothing(tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for name in ("file", "link", "empty", "vm"):
        with pytest.raises(AlreadyExists):
            exported(bundle, tmp_path / name, Tool.TART)
    assert leftovers(tmp_path) == []


def test_macosvm_runs_no_linux_from_a_disk(tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.utm_linux(tmp_path / "vm"))
    with pytest.raises(Unsupported, match="export it for tart"):
        exported(bundle, tmp_path / "out", Tool.MACOSVM)
    assert exported(bundle, tmp_path / "tart", Tool.TART).machine.os == "linux"


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    bundle = bundles.read(vm_bundles.tart(tmp_path / "vm"))
    assert bundle.aux is not None

    def interrupt(_stage: str, done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundles.export(bundle.machine, bundle.disk, bundle.aux, tmp_path / "out", Tool.TART, interrupt)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


# --- Where blocks can be shared


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with xfs_volume(tmp_path) as mounted:
        yield mounted


def used_bytes(volume: Path) -> int:
    subprocess.run(["sync", "-f", volume], check=True)
    return shutil.disk_usage(volume).used


def test_imports_and_exports_share_their_blocks_with_the_store(xfs: Path) -> None:
    """Hazard: an import of a machine of 60 GB takes 60 GB, and as long as copying them."""
    directory = vm_bundles.tart(xfs / "vm")
    (directory / "disk.img").write_bytes(random.Random(4).randbytes(64 * MIB))
    before_bytes = used_bytes(xfs)
    store = Store(xfs / "images")
    told: set[str] = set()
    record = bundles.import_bundle(store, bundles.read(directory), TARGET, lambda stage, *_: told.add(stage))
    assert told == {"hash disk.img", "hash nvram.bin"}, "it was copied"
    disk, aux = store.content_path(record.disk.digest), store.content_path(record.aux.digest)
    bundles.export(record.machine, disk, aux, xfs / "out", Tool.TART, silent)
    assert used_bytes(xfs) - before_bytes < 4 * MIB
    for path in (directory / "disk.img", xfs / "out" / "disk.img"):
        with path.open("r+b") as file:
            file.write(b"changed")
    assert store.has_content(record.disk)
    assert disk.read_bytes()[:7] != b"changed"
