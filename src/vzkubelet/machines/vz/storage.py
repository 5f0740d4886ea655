"""Disks of a configuration."""

from typing import Any

from vzkubelet.errors import InvalidInput, NotFound
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.plan import Disk, DiskCaching, DiskSynchronization, MachinePlan, resolved

_SECTOR_BYTES = 512


def storage_devices(plan: MachinePlan, directory: MachineDirectory) -> list[Any]:
    """Raises NotFound, InvalidInput, AppleError."""
    if not plan.disks and plan.is_macos:
        raise InvalidInput("a macOS guest needs a disk; the image has none")
    return [_block_device(disk, plan, directory) for disk in plan.disks]


def caching_of(disk: Disk, plan: MachinePlan) -> DiskCaching:
    """What `Disk.caching` means where it is not given: file systems of Linux guests get damaged uncached (tart#675)."""
    if disk.caching is not None:
        return disk.caching
    return DiskCaching.AUTOMATIC if plan.is_macos else DiskCaching.CACHED


def _block_device(disk: Disk, plan: MachinePlan, directory: MachineDirectory) -> Any:
    vz = apple.frameworks().Virtualization
    path = resolved(disk.path, directory.path)
    if not path.is_file():
        raise NotFound(
            f"the disk {path} does not exist; delete the pod and pull its image again", reason="FileNotFound"
        )
    if (size := path.stat().st_size) % _SECTOR_BYTES or not size:
        raise InvalidInput(
            f"the disk {path} has {size} bytes, which is no multiple of {_SECTOR_BYTES}: it is no raw disk image, or "
            "was cut off; remove its image (`macos-vz-kubelet image rm REFERENCE`) and pull it again",
            reason="InvalidDiskImage",
        )
    attachment, error = (
        vz.VZDiskImageStorageDeviceAttachment.alloc().initWithURL_readOnly_cachingMode_synchronizationMode_error_(
            apple.file_url(path),
            False,  # read-only
            _caching_mode(vz, caching_of(disk, plan)),
            _synchronization_mode(vz, disk.synchronization),
            None,
        )
    )
    if attachment is None:
        raise apple.apple_error(error, str(path))
    return vz.VZVirtioBlockDeviceConfiguration.alloc().initWithAttachment_(attachment)


def _caching_mode(vz: Any, caching: DiskCaching) -> int:
    modes: dict[DiskCaching, int] = {
        DiskCaching.AUTOMATIC: vz.VZDiskImageCachingModeAutomatic,
        DiskCaching.UNCACHED: vz.VZDiskImageCachingModeUncached,
        DiskCaching.CACHED: vz.VZDiskImageCachingModeCached,
    }
    return modes[caching]


def _synchronization_mode(vz: Any, synchronization: DiskSynchronization) -> int:
    modes: dict[DiskSynchronization, int] = {
        DiskSynchronization.FULL: vz.VZDiskImageSynchronizationModeFull,
        DiskSynchronization.FSYNC: vz.VZDiskImageSynchronizationModeFsync,
        DiskSynchronization.NONE: vz.VZDiskImageSynchronizationModeNone,
    }
    return modes[synchronization]
