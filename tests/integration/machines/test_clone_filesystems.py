"""Clones on real file systems: overlays where blocks cannot be shared, reflinks where they can."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vzkubelet.machines.clone import CloneMethod, clone_disk_for_qemu, clone_file, try_reflink
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
    shared = try_reflink(directory / "probe", directory / "probe-clone")
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


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """An XFS of its own on a loop device."""
    if shutil.which("mkfs.xfs", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("mkfs.xfs is not installed (package xfsprogs)")
    backing, mounted = tmp_path / "xfs.img", tmp_path / "xfs"
    mounted.mkdir()
    with backing.open("wb") as file:
        file.truncate(512 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", backing], check=True)
    subprocess.run(["mount", "-o", "loop", backing, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


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
