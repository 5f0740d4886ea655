"""What ``image create`` makes of an installation: a directory that can be pushed, and opened with other tools.

``config.json`` is the one of the image format (docs/image-format.md); ``vm.json`` is what macosvm reads, which shows
the machine in a window.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from vzkubelet.errors import AlreadyExists, InvalidInput, NotFound, clip
from vzkubelet.files import STAGING_PREFIX, open_regular, sync_directory, write_atomic
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.vz.installation import Installed

CONFIG = "config.json"
_MAX_CONFIG_BYTES = 1024 * 1024
MAX_CPUS = 1024
MAX_MEMORY_BYTES = 64 * 1024**4
"""More than any machine has: what lies above is a slip of the pen."""
_MEDIA_TYPE = "application/vnd.agoda.macosvz.{}.v1"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the machine. `mediatype` is that of the layer which it becomes."""

    mediatype: str
    file: str


class BootData(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a bundle's ``config.json``: what a push needs besides the files."""

    hardware_model_data: bytes
    machine_id_data: bytes
    os: Literal["darwin"] = "darwin"
    cpu_min: Annotated[int, msgspec.Meta(ge=0, le=MAX_CPUS)] = 0
    memory_min_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_MEMORY_BYTES)] = 0
    storage: tuple[Storage, ...] = ()
    """Empty where another tool wrote none: the files are then called as ours are."""


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place at the end, or goes away when it fails.

    Raises: AlreadyExists, Exhausted, Unavailable.
    """
    if target.exists():
        raise AlreadyExists(f"{target} exists: give another directory, or remove it")
    staging = target.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{target.name}")
    try:
        staging.mkdir(parents=True, mode=0o700)
        try:
            yield staging
            staging.rename(target)
            sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as exc:
        raise os_fault(exc, f"cannot make {target}") from exc


def write(directory: Path, installed: Installed) -> None:
    """Complete the directory of a finished installation."""
    image = installed.image
    files = MachineDirectory(directory)
    config: dict[str, Any] = {
        "storage": [
            {"mediatype": _MEDIA_TYPE.format("aux.image"), "file": files.aux.name},
            {"mediatype": _MEDIA_TYPE.format("disk.image"), "file": files.disk_raw.name},
        ],
        "mediatype": _MEDIA_TYPE.format("config") + "+json",
        "os": "darwin",
        "hardwareModelData": image.hardware_model,
        "machineIdData": installed.machine_id,
        "cpuMin": image.cpu_min,
        "memoryMinBytes": image.memory_min_bytes,
    }
    macosvm: dict[str, Any] = {
        "version": 1,
        "os": "macos",
        "hardwareModel": image.hardware_model,
        "machineId": installed.machine_id,
        "cpus": max(4, image.cpu_min),
        "ram": max(8 * 1024**3, image.memory_min_bytes),
        "storage": [
            {"type": "disk", "file": files.disk_raw.name, "readOnly": False},
            {"type": "aux", "file": files.aux.name, "readOnly": False},
        ],
        "displays": [{"dpi": 144, "width": 1920, "height": 1200}],
        "networks": [{"type": "nat"}],
        "audio": False,
    }
    for name, content in ((CONFIG, config), ("vm.json", macosvm)):
        write_atomic(directory / name, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    files.machine_id.unlink(missing_ok=True)
    files.console.unlink(missing_ok=True)


def boot_data(directory: Path) -> BootData:
    """Raises NotFound, InvalidInput, Exhausted, Unavailable."""
    path = directory / CONFIG
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        what = f"it has no {CONFIG}" if directory.is_dir() else "it does not exist"
        raise NotFound(f"{directory} is no bundle: {what}") from None
    except NotADirectoryError:
        raise InvalidInput(f"{directory} is no bundle: give the directory, not a file of it") from None
    except OSError as exc:
        raise os_fault(exc, f"cannot read {path}") from exc
    if len(content) > _MAX_CONFIG_BYTES:
        raise InvalidInput(f"{path} is no configuration of a macOS image: it has more than 1 MiB")
    try:
        return msgspec.json.decode(content, type=BootData)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} is no configuration of a macOS image: {exc}") from exc


def disk_and_aux(directory: Path, boot: BootData) -> tuple[Path, Path]:
    """The files that the configuration names, which are below the directory and nowhere else.

    Raises InvalidInput.
    """
    disk, aux = (
        _file(directory, boot, kind, name) for kind, name in (("disk.image", "disk.img"), ("aux.image", "aux.img"))
    )
    return disk, aux


def _file(directory: Path, boot: BootData, kind: str, default: str) -> Path:
    path = directory / CONFIG
    named = [entry.file for entry in boot.storage if entry.mediatype == _MEDIA_TYPE.format(kind)]
    if not boot.storage:
        named = [default]
    if len(named) != 1:
        raise InvalidInput(f"{path}: storage names {len(named)} files of type {_MEDIA_TYPE.format(kind)}, not one")
    [name] = named
    if not name or "\0" in name or name in (".", "..") or "/" in name:
        raise InvalidInput(f'{path}: storage: "{clip(name)}" is no plain file name')
    file = directory / name
    if not file.resolve().is_relative_to(directory.resolve()):
        raise InvalidInput(f"{file} is a link to {clip(str(file.resolve()))}, which is no part of the bundle")
    return file
