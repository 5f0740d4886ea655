"""Shared directories of a configuration and of a running machine: virtio-fs, the automount tag, Rosetta."""

from collections.abc import Sequence
from typing import Any

from vzkubelet.errors import InvalidInput, NotFound, Unsupported
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import apple
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.plan import AUTOMOUNT_TAG, FileSystemShare, MachinePlan, SharedDirectory, resolved


def sharing_devices(plan: MachinePlan, directory: MachineDirectory, host: MacOS) -> list[Any]:
    """Raises InvalidInput, NotFound, Unsupported, AppleError."""
    tags = [share.tag for share in plan.shares] + ([plan.rosetta_tag] if plan.rosetta_tag else [])
    if len(set(tags)) != len(tags):
        raise InvalidInput(f"two shares have one tag ({', '.join(sorted(tags))}); give each its own")
    devices = [_file_system(share.tag, share_of(share, directory)) for share in plan.shares]
    if plan.rosetta_tag:
        devices.append(_file_system(plan.rosetta_tag, _rosetta(plan, host)))
    return devices


def _file_system(tag: str, share: Any) -> Any:
    vz = apple.frameworks().Virtualization
    kind = vz.VZVirtioFileSystemDeviceConfiguration
    native_tag = kind.macOSGuestAutomountTag() if tag == AUTOMOUNT_TAG else tag
    valid, error = kind.validateTag_error_(native_tag, None)
    if not valid:
        raise InvalidInput(
            f"{tag!r} is no tag for a share: 1 to 35 bytes ({apple.apple_error(error)}); use a shorter one"
        )
    device = kind.alloc().initWithTag_(native_tag)
    device.setShare_(share)
    return device


def share_of(share: FileSystemShare, directory: MachineDirectory) -> Any:
    """A VZDirectoryShare; also for a running machine. Raises InvalidInput, NotFound."""
    vz = apple.frameworks().Virtualization
    if share.is_single:
        return vz.VZSingleDirectoryShare.alloc().initWithDirectory_(_shared(share.directories[0], directory))
    _check_names(share.directories)
    return vz.VZMultipleDirectoryShare.alloc().initWithDirectories_(
        {item.name: _shared(item, directory) for item in share.directories}
    )


def _check_names(directories: Sequence[SharedDirectory]) -> None:
    """A bad name is an Objective-C exception in the initialiser, so it is found here."""
    kind = apple.frameworks().Virtualization.VZMultipleDirectoryShare
    names = [item.name for item in directories]
    for name in names:
        valid, error = kind.validateName_error_(name, None)
        if not valid:
            raise InvalidInput(f"{name!r} is no name for a shared directory: {apple.apple_error(error)}; use another")
        if names.count(name) > 1:
            raise InvalidInput(f"two directories of one share are named {name!r}; give each its own name")


def _shared(item: SharedDirectory, directory: MachineDirectory) -> Any:
    path = resolved(item.path, directory.path)
    if not path.is_dir():
        raise NotFound(f"the shared directory {path} does not exist; create it on the host", reason="ShareNotFound")
    vz = apple.frameworks().Virtualization
    return vz.VZSharedDirectory.alloc().initWithURL_readOnly_(apple.file_url(path), item.read_only)


def _rosetta(plan: MachinePlan, host: MacOS) -> Any:
    if plan.is_macos:
        raise InvalidInput("Rosetta is shared with Linux guests only; macOS guests bring their own")
    vz = apple.frameworks().Virtualization
    if not host.is_apple_silicon:
        raise Unsupported("Rosetta runs on Apple Silicon only", reason="RosettaUnavailable")
    kind = vz.VZLinuxRosettaDirectoryShare
    match kind.availability():
        case vz.VZLinuxRosettaAvailabilityInstalled:
            pass
        case vz.VZLinuxRosettaAvailabilityNotInstalled:
            raise Unsupported(
                "Rosetta is not installed on this host: run `softwareupdate --install-rosetta --agree-to-license`",
                reason="RosettaUnavailable",
            )
        case _:
            raise Unsupported(
                "this host does not offer Rosetta to Linux guests; run the agent without --vz-rosetta",
                reason="RosettaUnavailable",
            )
    share, error = kind.alloc().initWithError_(None)
    if share is None:
        raise apple.apple_error(error, "Rosetta")
    return share
