"""Restore images of macOS (IPSW): what is in one, whether this host installs it, and which is Apple's latest."""

from pathlib import Path
from typing import Any

import msgspec

from vzkubelet.errors import InvalidInput, NotFound, Unsupported
from vzkubelet.machines.vz import apple, faults
from vzkubelet.machines.vz.apple import AppleError
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.faults import Operation, Situation
from vzkubelet.machines.vz.queue import Queue

_LOAD_TIMEOUT_S = 120.0
"""The framework reads the index of a 15 GB archive, or Apple's catalogue."""


class RestoreImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore image brings; the last three are empty when this host does not support it."""

    url: str
    """``file:`` of a file that was loaded, ``https:`` of Apple's latest."""
    version: str
    build: str
    supported: bool
    cpu_min: int = 0
    memory_min_bytes: int = 0
    hardware_model: bytes = b""
    """Data representation of the VZMacHardwareModel that the auxiliary storage has to be made for."""

    def __str__(self) -> str:
        return f"macOS {self.version} ({self.build})"


def _taken(image: Any) -> RestoreImage:
    version = image.operatingSystemVersion()
    numbers = [int(version[part]) for part in range(3)]
    requirements = image.mostFeaturefulSupportedConfiguration()
    told = RestoreImage(
        url=str(image.URL().absoluteString()),
        version=".".join(map(str, numbers if numbers[2] else numbers[:2])),
        build=str(image.buildVersion()),
        supported=bool(image.isSupported()) and requirements is not None,
    )
    if not told.supported:
        return told
    return msgspec.structs.replace(
        told,
        cpu_min=int(requirements.minimumSupportedCPUCount()),
        memory_min_bytes=int(requirements.minimumSupportedMemorySize()),
        hardware_model=bytes(requirements.hardwareModel().dataRepresentation()),
    )


async def load(queue: Queue, path: Path, host: MacOS) -> RestoreImage:
    """Read a file. Symbolic links are resolved first: the framework opens no path that leads through one.

    Raises: NotFound, InvalidInput (no restore image), Unsupported (for a newer host), DeadlineExceeded.
    """
    file = path.resolve()
    if not file.is_file():
        raise NotFound(f"there is no restore image {path}")
    kind = queue.frameworks.Virtualization.VZMacOSRestoreImage
    url = apple.file_url(file)
    try:
        image = await queue.completed_with(
            lambda handler: kind.loadFileURL_completionHandler_(url, handler),
            _taken,
            Operation.LOAD_RESTORE_IMAGE,
            _LOAD_TIMEOUT_S,
        )
    except AppleError as exc:
        raise faults.translate(exc, Situation(Operation.LOAD_RESTORE_IMAGE, host=host)) from exc
    check_supported(image, host, str(path))
    return image


async def fetch_latest(queue: Queue, host: MacOS) -> RestoreImage:
    """The newest one that this host supports, by Apple's catalogue; nothing is downloaded.

    Raises: Unavailable (no catalogue), Unsupported, DeadlineExceeded.
    """
    kind = queue.frameworks.Virtualization.VZMacOSRestoreImage
    try:
        image = await queue.completed_with(
            lambda handler: kind.fetchLatestSupportedWithCompletionHandler_(handler),
            _taken,
            Operation.LOAD_RESTORE_IMAGE,
            _LOAD_TIMEOUT_S,
        )
    except AppleError as exc:
        raise faults.translate(exc, Situation(Operation.LOAD_RESTORE_IMAGE, host=host)) from exc
    check_supported(image, host, "the latest restore image")
    return image


def check_supported(image: RestoreImage, host: MacOS, name: str) -> None:
    """Raises Unsupported with what would be supported."""
    if not image.supported:
        raise Unsupported(
            f"{name} brings {image}, which {host} does not install: a guest is not newer than its host; update the "
            "host (`softwareupdate --list`) or give an older restore image with `--ipsw FILE`",
            reason="RestoreImageUnsupported",
        )
    if not image.hardware_model:
        raise InvalidInput(f"{name} brings {image} and no hardware model for it", reason="InvalidRestoreImage")
