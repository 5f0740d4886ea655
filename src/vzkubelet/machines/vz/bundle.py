"""What ``image create`` makes of an installation: a directory that can be pushed, and opened with other tools.

``config.json`` is the one of the image format (docs/image-format.md); ``vm.json`` is what macosvm reads, which shows
the machine in a window.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vzkubelet.files import new_directory, write_atomic
from vzkubelet.machines.directory import MachineDirectory, os_fault
from vzkubelet.machines.vz.installation import Installed

CONFIG = "config.json"
_MEDIA_TYPE = "application/vnd.agoda.macosvz.{}.v1"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place at the end, or goes away when it fails.

    Raises: AlreadyExists, Exhausted, Unavailable.
    """
    try:
        with new_directory(target) as staging:
            yield staging
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
