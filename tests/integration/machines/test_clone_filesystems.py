"""Clones on real file systems: overlays where blocks cannot be shared, reflinks where they can."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.xfs_volume import xfs_volume
from vzkubelet.files import reflink
from vzkubelet.machines.clone import CloneMethod, clone_disk_for_qemu, clone_file
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.qcow2 import create_overlay

MIB = 1024 * 1024


def make_image(path: Path) -> Path:
    """64 MiB, of which 9 are data."""
    with path.open("wb") as file:
        file.write(b"a" * 8 * MIB)
        file.truncate(64 * MIB)
        file.seek(63 * MIB)
        file.write(b"z" * MIB)
    return path


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def machine(tmp_path: Path) -> MachineDirectory:
    (tmp_path / "machine").mkdir()
    return MachineDirectory(tmp_path / "machine")


def shares_blocks(directory: Path) -> bool:
    (directory / "probe").write_bytes(b"x")
    shared = reflink(directory / "probe", directory / "probe-clone")
    for name in ("probe", "probe-clone"):
        (directory / name).unlink(missing_ok=True)
    return shared


def test_an_overlay_reads_as_its_image_and_outlives_it(tmp_path: Path, machine: MachineDirectory) -> None:
    if shares_blocks(tmp_path):
        pytest.skip("this file system shares blocks, so no overlay is made on it")
    image = make_image(tmp_path / "image")
    expected = image.read_bytes()
    assert clone_disk_for_qemu(image, machine) is CloneMethod.OVERLAY
    assert machine.disk_overlay.stat().st_blocks * 512 < MIB
    image.unlink()
    moved = MachineDirectory(machine.path.rename(tmp_path / "moved"))
    qemu_img("convert", "-O", "raw", moved.disk_overlay, tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == expected


def test_writing_to_an_overlay_leaves_the_image_alone(tmp_path: Path, machine: MachineDirectory) -> None:
    if shares_blocks(tmp_path):
        pytest.skip("this file system shares blocks, so no overlay is made on it")
    image = make_image(tmp_path / "image")
    before = image.read_bytes()
    clone_disk_for_qemu(image, machine)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 1M", machine.disk_overlay], check=True, capture_output=True)
    assert image.read_bytes() == before
    assert json.loads(qemu_img("info", "--output=json", machine.disk_overlay))["backing-filename"] == "base.img"


def test_a_clone_starts_no_program_that_could_outlive_a_killed_daemon(
    tmp_path: Path, machine: MachineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a clone started a program")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "posix_spawn", started)
    clone_disk_for_qemu(make_image(tmp_path / "image"), machine)


@pytest.mark.parametrize("size_bytes", [512, 1000, 64 * 1024, 512 * MIB, 512 * MIB + 512, 4096 * 1024 * MIB + 512])
def test_an_overlay_of_any_size_is_one_that_qemu_finds_nothing_wrong_with(tmp_path: Path, size_bytes: int) -> None:
    with (tmp_path / "base").open("wb") as base:
        base.truncate(size_bytes)
    create_overlay(tmp_path / "overlay", "base", size_bytes)
    report = json.loads(qemu_img("info", "--output=json", tmp_path / "overlay"))
    assert report["virtual-size"] == -(-size_bytes // 512) * 512
    assert (report["backing-filename"], report["backing-filename-format"]) == ("base", "raw")
    # Writing at both ends uses the first and the last entry of the tables.
    last = report["virtual-size"] - 512
    commands = ["-c", "write -P 7 0 512", "-c", f"write -P 8 {last} 512"]
    subprocess.run(["qemu-io", *commands, tmp_path / "overlay"], check=True, capture_output=True)
    assert "No errors were found" in qemu_img("check", tmp_path / "overlay")


def test_an_image_on_another_file_system_is_copied_with_its_holes(machine: MachineDirectory) -> None:
    shm = Path("/dev/shm")
    assert shm.stat().st_dev != machine.path.stat().st_dev, "the test needs a second file system"
    image = make_image(shm / f"clone-test-{id(machine)}")
    try:
        assert clone_disk_for_qemu(image, machine) is CloneMethod.COPY
        assert machine.disk_raw.read_bytes() == image.read_bytes()
        assert machine.disk_raw.stat().st_blocks * 512 < 16 * MIB
    finally:
        image.unlink()


# --- Images of a store, which knows who refers to them


def leads_to(users: Path) -> set[Path]:
    """The files that the links of a users' directory lead to, followed to their end."""
    return {link.resolve() for link in users.iterdir() if link.exists()}


def test_an_image_knows_the_machine_that_refers_to_it_wherever_its_directory_is(
    tmp_path: Path, machine: MachineDirectory
) -> None:
    image, users = make_image(tmp_path / "image"), tmp_path / "image.users"
    before = image.stat()
    place = tmp_path / "place"
    assert clone_disk_for_qemu(image, machine, users=users, place=place) is CloneMethod.OVERLAY
    assert leads_to(users) == {image}
    machine.path.rename(place)
    assert leads_to(users) == {image}
    qemu_img("convert", "-O", "raw", place / "disk.qcow2", tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == image.read_bytes()
    after = image.stat()
    assert (after.st_ctime_ns, after.st_nlink) == (before.st_ctime_ns, 1), "the image was touched"
    place.rename(tmp_path / ".removing-place")
    assert leads_to(users) == set()


def test_a_machine_made_again_leaves_no_second_link(tmp_path: Path) -> None:
    image, users = make_image(tmp_path / "image"), tmp_path / "image.users"
    for _ in range(3):
        directory = MachineDirectory(tmp_path / "machine")
        directory.path.mkdir()
        clone_disk_for_qemu(image, directory, users=users)
        assert leads_to(users) == {image}
        shutil.rmtree(directory.path)
    assert len(list(users.iterdir())) == 1


def test_links_stay_right_when_the_whole_cache_is_moved_and_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "volume" / "cache" / "machines" / "uid").mkdir(parents=True)
    (tmp_path / "cache").symlink_to(tmp_path / "volume" / "cache")
    image = make_image(tmp_path / "cache" / "image")
    users = tmp_path / "cache" / "image.users"
    clone_disk_for_qemu(image, MachineDirectory(tmp_path / "cache" / "machines" / "uid"), users=users)
    (tmp_path / "volume" / "cache").rename(tmp_path / "moved")
    assert leads_to(tmp_path / "moved" / "image.users") == {tmp_path / "moved" / "image"}


def test_an_image_of_a_store_on_another_file_system_needs_no_copy(machine: MachineDirectory) -> None:
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        image = make_image(directory / "image")
        assert clone_disk_for_qemu(image, machine, users=directory / "image.users") is CloneMethod.OVERLAY
        assert leads_to(directory / "image.users") == {image}
        assert machine.base.read_bytes() == image.read_bytes()
    finally:
        shutil.rmtree(directory)


def test_an_image_removed_while_a_clone_waited_is_missed_before_there_is_an_overlay(
    tmp_path: Path, machine: MachineDirectory
) -> None:
    image, users = make_image(tmp_path / "image"), tmp_path / "image.users"
    users.mkdir()
    remover = os.open(users, os.O_RDONLY)
    fcntl.flock(remover, fcntl.LOCK_EX)

    def remove() -> None:
        image.unlink()
        users.rmdir()
        os.close(remover)

    timer = threading.Timer(0.2, remove)
    timer.start()
    with pytest.raises(FileNotFoundError):
        clone_disk_for_qemu(image, machine, users=users)
    timer.join()
    assert not machine.disk_overlay.exists()


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with xfs_volume(tmp_path) as mounted:
        yield mounted


def test_xfs_shares_the_blocks_of_disk_and_firmware_store(xfs: Path) -> None:
    image = make_image(xfs / "image")
    (xfs / "machine").mkdir()
    machine = MachineDirectory(xfs / "machine")
    assert clone_disk_for_qemu(image, machine) is CloneMethod.REFLINK
    assert clone_file(image, machine.aux) is CloneMethod.REFLINK
    assert machine.disk_raw.read_bytes() == image.read_bytes()
    before = image.read_bytes()
    with machine.disk_raw.open("r+b") as file:
        file.write(b"changed")
    assert image.read_bytes() == before
    subprocess.run(["sync", "-f", xfs], check=True)
    used = shutil.disk_usage(xfs).used
    for number in range(20):
        assert clone_file(image, xfs / f"clone-{number}") is CloneMethod.REFLINK
    subprocess.run(["sync", "-f", xfs], check=True)
    assert shutil.disk_usage(xfs).used - used < 4 * MIB
