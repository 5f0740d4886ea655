"""Whose bundle a path is: told by what lies in it, not by its name."""

from dataclasses import replace
from pathlib import Path

import msgspec

from vzkubelet.errors import InvalidInput, NotFound, Unsupported
from vzkubelet.images.bundles import agoda, disks, lume, macosvm, tart, utm, virtualbuddy
from vzkubelet.images.bundles.bundle import Bundle, DiskFormat, decode_json, document, regular
from vzkubelet.images.bundles.locks import check_unused
from vzkubelet.images.formats.artifact import Machine

_DOCUMENTS = (agoda.DOCUMENT, macosvm.DOCUMENT, utm.DOCUMENT, virtualbuddy.CONFIGURATION, virtualbuddy.AUX)


def read(path: Path) -> Bundle:
    """The bundle at `path`: a directory, a ``vm.json``, or the file of a raw or qcow2 disk.

    A disk file alone says nothing of its machine; the caller completes it, then `check`.

    Raises: NotFound, InvalidInput, Unsupported, Conflict (in use, suspended), Forbidden, Unavailable.
    """
    if not path.exists() and not path.is_symlink():
        raise NotFound(f"{path} does not exist")
    bundle = _directory(path) if path.is_dir() else _file(path)
    documents = [path / name for name in _DOCUMENTS] if path.is_dir() else []
    check_unused([file for file in documents if file.is_file()] + list(bundle.files), str(path))
    if bundle.disk_format is DiskFormat.RAW:
        bundle = replace(bundle, disk_format=disks.format_of(bundle.disk))
    if bundle.disk_format is DiskFormat.RAW:
        disks.check_sectors(bundle.disk)
    return bundle


def check(bundle: Bundle) -> None:
    """Whether an image can be made of it. Raises: InvalidInput."""
    machine = bundle.machine
    if bundle.aux is None:
        what = "auxiliary storage" if machine.os == "darwin" else "UEFI variables (such as a copy of OVMF_VARS.fd)"
        raise InvalidInput(f"{bundle.path} has no {what}: give --aux-path")
    if machine.os == "darwin" and not machine.hardware_model:
        raise InvalidInput(
            f"{bundle.path} does not say its hardware model, without which no Mac boots it: give --hardware-model"
        )
    if machine.os == "darwin" and not machine.machine_id:
        raise InvalidInput(
            f"{bundle.path} does not say its machine identifier, nor does its auxiliary storage: give --machine-id"
        )


def _directory(path: Path) -> Bundle:
    if (path / utm.DOCUMENT).exists():
        return utm.read(path)
    if (path / virtualbuddy.AUX).exists() or (path / virtualbuddy.CONFIGURATION).exists():
        return virtualbuddy.read(path)
    if (path / agoda.DOCUMENT).exists():
        return _with_config_json(path)
    if (path / macosvm.DOCUMENT).exists():
        return macosvm.read(path)
    if not any(path.iterdir()):
        raise InvalidInput(f"{path} is no bundle: it is empty")
    raise Unsupported(
        f"{path} is no virtual machine that is known here: it has none of {', '.join(_DOCUMENTS)}; give the file of "
        "its disk, with --aux-path and the rest"
    )


def _with_config_json(path: Path) -> Bundle:
    """Three tools call their document the same."""
    keys = decode_json(document(path, agoda.DOCUMENT), dict[str, msgspec.Raw], path / agoda.DOCUMENT).keys()
    if "mediatype" in keys or "hardwareModelData" in keys or "storage" in keys:
        return agoda.read(path)
    if "version" in keys:
        return tart.read(path)
    if "os" in keys and keys & {"display", "networkMode", "machineIdentifier", "diskSize"}:
        return lume.read(path)
    raise Unsupported(f"{path / agoda.DOCUMENT} is of no tool that is known here (agoda, tart, lume)")


def _file(path: Path) -> Bundle:
    regular(path)
    if path.suffix == ".json":
        return macosvm.read(path.parent, path.name)
    return Bundle("disk", path, Machine(os="", architecture=""), path, None, disks.format_of(path))
