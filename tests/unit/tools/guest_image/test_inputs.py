"""What a build depends on: its cache key, the packages, the image config, the command that pushes."""

import json
from pathlib import Path

import pytest

from tools.guest_image.command_line import push_command
from tools.guest_image.errors import BuildError
from tools.guest_image.image_config import Defaults, document
from tools.guest_image.inputs import Inputs
from tools.guest_image.packages import Package, kernel_package
from tools.guest_image.rootfs import GuestSettings
from vzkubelet.images.formats import image_config

KERNEL = Package("linux-image-6.1.0-9-cloud-amd64", "6.1", "amd64", "00", "kmod")
SETTINGS = GuestSettings("vz", "guest")


def key(package: Package = KERNEL, tools: str = "1", settings: GuestSettings = SETTINGS, size_mib: int = 128) -> str:
    return Inputs((package,), package, {"mtools": tools}, settings, size_mib).key()


def test_every_input_changes_the_key(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"one")
    added = GuestSettings("vz", "guest", added=(("/bin/tool", tmp_path / "tool", 0o755),))
    keys = {
        key(),
        key(Package(KERNEL.name, "6.2", "amd64", "00", "kmod")),
        key(tools="2"),
        key(size_mib=256),
        key(settings=GuestSettings("other", "guest")),
        key(settings=GuestSettings("vz", "guest", busybox=tmp_path / "tool")),
        key(settings=added),
    }
    (tmp_path / "tool").write_bytes(b"two")
    keys.add(key(settings=added))
    assert len(keys) == 8
    assert key() in keys


def test_added_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot read .*/nowhere"):
        key(settings=GuestSettings("vz", "guest", busybox=tmp_path / "nowhere"))


def test_kernel_is_found_through_its_metapackage() -> None:
    meta = Package("linux-image-cloud-amd64", "6.1", "amd64", "00", "linux-image-6.1.0-9-cloud-amd64 (= 6.1)")
    assert kernel_package(meta) == KERNEL.name
    with pytest.raises(BuildError, match="depends on no linux-image package"):
        kernel_package(KERNEL)


def test_image_config_says_only_what_was_asked() -> None:
    plain = json.loads(document(Defaults()))
    assert plain["config"].keys() == {"Labels"}
    assert {image_config.CPU_MIN, image_config.MEMORY_MIN} == plain["config"]["Labels"].keys()
    full = json.loads(document(Defaults(["/agnhost"], ["pause"], ["A=b"], "65535:65535", "/")))
    assert full["config"]["Entrypoint"] == ["/agnhost"]
    assert full["config"]["Cmd"] == ["pause"]
    assert (full["config"]["User"], full["config"]["WorkingDir"]) == ("65535:65535", "/")
    assert (full["os"], full["architecture"]) == ("linux", "amd64")


def test_push_names_the_files_that_build_wrote(tmp_path: Path) -> None:
    command = push_command(tmp_path, "localhost:5000/guest:1", plain_http=True)
    assert command[1:3] == ["image", "push"]
    assert command[command.index("--disk-path") + 1] == str(tmp_path / "disk.img")
    assert command[command.index("--os") + 1] == "linux"
    assert command[-2:] == ["--plain-http", "localhost:5000/guest:1"]
