"""Apple's errors as ours: what failed, why, and the command that mends it. Pure.

The framework's codes are coarse and its texts say little ("The virtual machine failed to start."). What is known about
them (VZError.h, and what users of tart, vfkit and UTM met) is written down here once, for every operation.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from vzkubelet.errors import (
    MACHINE_LIMIT_REASON,
    Conflict,
    DeadlineExceeded,
    Error,
    Exhausted,
    Forbidden,
    InvalidInput,
    MachineFault,
    NotFound,
    Unavailable,
    Unsupported,
)
from vzkubelet.machines.vz.apple import VZ_ERROR_DOMAIN, AppleError
from vzkubelet.machines.vz.availability import MacOS

SECURITY_INFORMATION = -9
"""Undocumented: "Unable to access security information" (tart#1137)."""

_KEYCHAIN_SIGNS = ("-25308", "security information", "keypair", "interaction is not allowed", "seckeycreate")
_IN_USE = re.compile(r"\block(ed)?\b|\bin use\b")
_LOGS = "`log show --last 5m --predicate 'process CONTAINS \"Virtualization\"'` tells more"
_KEYCHAIN = (
    "guests with macOS 15 or later need the unlocked login keychain of the user that runs the agent: run "
    "`security unlock-keychain ~/Library/Keychains/login.keychain-db` in this session, or turn on automatic login and "
    "run the agent as a LaunchAgent (`macos-vz-kubelet install`)"
)
_NO_ROOT = (
    "guests with macOS 15 or later do not start under root: run the agent as a LaunchAgent of an ordinary user "
    "(`macos-vz-kubelet install` without sudo)"
)
_SIGN = "run `macos-vz-kubelet sign` and restart the agent, which then runs its helpers in the signed app"
_NEWER_MAC = (
    "the image was made on a newer macOS; update this host (`softwareupdate --list`) or use an image made for it"
)
_DOCTOR = "`macos-vz-kubelet doctor` checks the host"


class Operation(StrEnum):
    """What was being done, as a verb for the message."""

    CONFIGURE = "configure"
    VALIDATE = "validate"
    START = "start"
    REQUEST_STOP = "ask to stop"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    SAVE = "save"
    RESTORE = "restore"
    RUN = "run"
    """No call of ours: the guest was running."""
    SHARE = "change a share of"
    BALLOON = "set the memory target of"
    NETWORK = "keep up the network of"
    VSOCK = "connect by vsock to"
    INSTALL = "install macOS in"
    LOAD_RESTORE_IMAGE = "load the restore image for"
    QUERY = "read the state of"


@dataclass(frozen=True, slots=True)
class Situation:
    """What a code means depends on more than the code."""

    operation: Operation
    is_macos_guest: bool = True
    host: MacOS | None = None
    is_root: bool = False

    def during(self, operation: Operation) -> "Situation":
        return replace(self, operation=operation)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one code is told. `remedy` is a sentence without its full stop."""

    kind: type[Error]
    reason: str
    remedy: str


_STATE_REMEDY = (
    "the virtual machine was not in a state that allows this, or changed it meanwhile; look at its status again, and "
    "delete the pod if it does not come back"
)

_RULES: dict[int, Rule] = {
    1: Rule(MachineFault, "VirtualMachineInternalError", f"{_LOGS}; {_DOCTOR}"),
    2: Rule(
        InvalidInput,
        "InvalidVirtualMachineConfiguration",
        "the pod, the image or a setting asks for a device or size that this host does not take; "
        "`macos-vz-kubelet doctor --self-check` shows which configurations it takes",
    ),
    3: Rule(Conflict, "InvalidVirtualMachineState", _STATE_REMEDY),
    4: Rule(Conflict, "InvalidVirtualMachineStateTransition", _STATE_REMEDY),
    5: Rule(
        InvalidInput,
        "InvalidDiskImage",
        "the disk is not a raw image whose size is a multiple of 512 bytes, or it is damaged: remove the image with "
        "`macos-vz-kubelet image rm REFERENCE` and pull it again with `macos-vz-kubelet image pull REFERENCE`",
    ),
    6: Rule(
        Exhausted,
        MACHINE_LIMIT_REASON,
        "macOS allows two running macOS guests per host, over all applications; end one (`pgrep -fl "
        "com.apple.Virtualization.VirtualMachine` lists them); when fewer run, macOS leaked a slot and only "
        "`sudo shutdown -r now` frees it",
    ),
    7: Rule(
        Unavailable,
        "VirtualMachineNetworkError",
        "the host's virtual network failed: check its interfaces with `ifconfig`, turn Internet Sharing off in System "
        f"Settings; {_DOCTOR}, and if nothing is wrong there `sudo shutdown -r now` makes the network anew",
    ),
    8: Rule(
        Exhausted,
        "DiskFull",
        "free space on the volume of the cache directory (`df -h`, `macos-vz-kubelet image rm REFERENCE`); a clone "
        "shares its blocks with the image until the guest writes to them",
    ),
    9: Rule(Conflict, "OperationCancelled", "it was cancelled; do it again if that was not meant"),
    10: Rule(Unsupported, "NotSupported", f"this host or this configuration does not offer it; {_DOCTOR}"),
    11: Rule(
        MachineFault,
        "SaveFailed",
        "the machine is still paused and can be resumed; only machines with suspendable devices can be saved, on a "
        "volume with room for the guest's memory (`df -h`)",
    ),
    12: Rule(
        MachineFault,
        "RestoreFailed",
        "a saved state belongs to this host, this version of macOS, the same devices and the disk as it was when "
        "paused; start the machine without it",
    ),
    SECURITY_INFORMATION: Rule(Unavailable, "KeychainLocked", _KEYCHAIN),
    10001: Rule(
        Unavailable,
        "RestoreImageCatalogLoadFailed",
        "Apple's catalogue of restore images could not be read: check `curl -I https://mesu.apple.com`, or give a "
        "file with `--ipsw FILE`",
    ),
    10002: Rule(Unavailable, "InvalidRestoreImageCatalog", "give a file with `--ipsw FILE`"),
    10003: Rule(
        Unsupported,
        "NoSupportedRestoreImagesInCatalog",
        "no restore image of Apple's catalogue fits this host: update it (`softwareupdate --list`), or give an older "
        "one with `--ipsw FILE`",
    ),
    10004: Rule(
        InvalidInput,
        "RestoreImageLoadFailed",
        "the file cannot be read as a restore image: check its path and size, and download it again",
    ),
    10005: Rule(InvalidInput, "InvalidRestoreImage", "the restore image is damaged: download it again"),
    10006: Rule(
        Unsupported,
        "InstallationRequiresUpdate",
        "the restore image is newer than this host's device support: run `softwareupdate --install --all`, or open "
        "Xcode once, which installs it (`xcodebuild -runFirstLaunch`)",
    ),
    10007: Rule(
        MachineFault,
        "InstallationFailed",
        f"remove the half-made machine and install again; {_LOGS}",
    ),
    20001: Rule(Unavailable, "NetworkBlockDeviceNegotiationFailed", "check the NBD server and the export's name"),
    20002: Rule(Unavailable, "NetworkBlockDeviceDisconnected", "check the NBD server and the network to it"),
    30001: Rule(Conflict, "USBControllerNotFound", "the machine has no USB controller"),
    30002: Rule(Conflict, "DeviceAlreadyAttached", "detach the device first"),
    30003: Rule(MachineFault, "DeviceInitializationFailure", _LOGS),
    30004: Rule(Conflict, "DeviceNotFound", "the device is not attached"),
}

_FILE_FORBIDDEN = Rule(
    Forbidden,
    "FileForbidden",
    "the user of the agent may not open a file: check owner and mode with `ls -le`, and give the agent Full Disk "
    "Access in System Settings > Privacy & Security when it is on an external volume",
)
_NOBODY_LISTENS = Rule(
    Unavailable, "VsockRefused", "nothing in the guest listens on that port (yet), or the guest is down"
)
_UNKNOWN = Rule(MachineFault, "VirtualMachineError", f"{_LOGS}; {_DOCTOR}")

_RUNNING: dict[int, Rule] = {
    1: Rule(
        MachineFault,
        "GuestStopped",
        f"the guest's processor or its Virtualization process failed; {_LOGS}, and Console shows crash reports of "
        "com.apple.Virtualization.VirtualMachine",
    ),
    5: Rule(
        MachineFault,
        "GuestDiskFailed",
        "the guest's disk could not be read or written while it ran: check the volume with `diskutil verifyVolume /`",
    ),
}
"""Codes that mean something else when nobody asked for anything."""
_ONLY_OF = {11: Operation.SAVE, 12: Operation.RESTORE}
"""Codes whose remedy speaks of one operation; elsewhere nobody knows what they mean."""


def _rule_of_domain(error: AppleError) -> Rule:
    """Errors that Foundation or the kernel gave: about files, nearly always."""
    match error.domain, error.code:
        case ("NSPOSIXErrorDomain", 28 | 69) | ("NSCocoaErrorDomain", 640):
            return _RULES[8]
        case ("NSPOSIXErrorDomain", 2) | ("NSCocoaErrorDomain", 4 | 260):
            return Rule(NotFound, "FileNotFound", "a file of the machine is missing; delete the pod and pull its image")
        case ("NSPOSIXErrorDomain", 1 | 13) | ("NSCocoaErrorDomain", 257 | 513):
            return _FILE_FORBIDDEN
        case ("NSPOSIXErrorDomain", 16 | 35):
            return Rule(Conflict, "FileInUse", "another process has the file open: find it with `lsof PATH` and end it")
        case _:
            return _UNKNOWN


def _by_text(error: AppleError, situation: Situation) -> Rule | None:
    """What only the text tells."""
    text = f"{error.text} {error.reason} {error.underlying}".lower()
    if "com.apple.vm.networking" in text:
        return Rule(
            Forbidden,
            "NotEntitled",
            "bridged networking needs the entitlement com.apple.vm.networking, which Apple grants per team: use NAT "
            "(unset VZ_BRIDGE_INTERFACE), or sign with a granted provisioning profile (`macos-vz-kubelet sign --help`)",
        )
    if "com.apple.security.virtualization" in text or "entitlement" in text:
        return Rule(Forbidden, "NotEntitled", f"the running Python lacks com.apple.security.virtualization: {_SIGN}")
    if any(sign in text for sign in _KEYCHAIN_SIGNS):
        return _RULES[SECURITY_INFORMATION]
    if error.code in (1, 2, 5) and _IN_USE.search(text):
        return Rule(
            Conflict,
            "DiskInUse",
            "another process uses the machine's disk or auxiliary storage: find it with `lsof PATH` and end it",
        )
    if "hardware model" in text and "not supported" in text:
        return Rule(Unsupported, "HardwareModelUnsupported", _NEWER_MAC)
    if "auxiliary storage" in text and "open" in text:
        return _FILE_FORBIDDEN
    if error.code in (2, 5) and ("auxiliary storage" in text or "hardware model" in text):
        return Rule(
            InvalidInput,
            "AuxiliaryStorageMismatch",
            "auxiliary storage and hardware model do not belong together: disk, auxiliary storage and hardware model "
            "of an image come from one machine; push them again together (`macos-vz-kubelet image push`) and pull "
            "the image anew",
        )
    if "no space left" in text or "disk is full" in text or "out of space" in text:
        return _RULES[8]
    return None


def _by_situation(error: AppleError, situation: Situation) -> Rule | None:
    """What the host and the operation tell about a code that says nothing by itself."""
    if error.code == 1 and situation.operation in (Operation.START, Operation.RESTORE) and situation.is_macos_guest:
        needs_keychain = situation.host is None or situation.host >= MacOS(15)
        if needs_keychain and situation.is_root:
            return Rule(Forbidden, "RunsAsRoot", f"{_NO_ROOT}; {_LOGS}")
        if needs_keychain:
            return Rule(MachineFault, "StartFailed", f"often the keychain is the cause: {_KEYCHAIN}; {_LOGS}")
    if situation.operation is Operation.RUN and error.code in _RUNNING:
        return _RUNNING[error.code]
    if error.code in _ONLY_OF and situation.operation is not _ONLY_OF[error.code]:
        return _UNKNOWN
    return None


def _rule(error: AppleError, situation: Situation) -> Rule:
    if (rule := _by_text(error, situation)) is not None:
        return rule
    if situation.operation is Operation.VSOCK and not (error.domain == VZ_ERROR_DOMAIN and error.code in (3, 4)):
        return _NOBODY_LISTENS
    if error.domain != VZ_ERROR_DOMAIN:
        return _rule_of_domain(error)
    return _by_situation(error, situation) or _RULES.get(error.code, _UNKNOWN)


def translate(error: AppleError, situation: Situation) -> Error:
    """Our error for Apple's, with it as the cause; `MachineFault.code` is Apple's."""
    rule = _rule(error, situation)
    if situation.operation is Operation.RUN:
        told = f"{error}; {rule.remedy}"  # that the machine has stopped is said by whoever tells it
    else:
        told = f"cannot {situation.operation} the virtual machine: {error}; {rule.remedy}"
    translated = (
        MachineFault(told, code=error.code, reason=rule.reason)
        if rule.kind is MachineFault
        else rule.kind(told, reason=rule.reason)
    )
    translated.__cause__ = error
    return translated


def code_of(error: Error) -> int | None:
    """Apple's code behind one of our errors, where there is one."""
    if isinstance(error, MachineFault) and error.code is not None:
        return error.code
    return error.__cause__.code if isinstance(error.__cause__, AppleError) else None


def timed_out(operation: Operation, timeout_s: float) -> DeadlineExceeded:
    """The framework never called back."""
    remedy = (
        f"its helper is ended and the start tried again; should that not help, {_DOCTOR}, and `sudo shutdown -r now` "
        "frees a framework that is stuck"
        if operation is Operation.START
        else "delete the pod to end its helper"
    )
    return DeadlineExceeded(
        f"cannot {operation} the virtual machine: Virtualization.framework did not answer within {timeout_s:g} s; "
        f"{_LOGS}; {remedy}",
        reason="VirtualMachineTimeout",
    )


def hardware_model_unsupported(host: MacOS) -> Unsupported:
    return Unsupported(
        f"the image's hardware model is not supported by {host}: {_NEWER_MAC}",
        reason="HardwareModelUnsupported",
    )


def unreadable(what: str, remedy: str) -> InvalidInput:
    """Data of an image that the framework does not recognise."""
    return InvalidInput(f"{what} of the image is not valid data; {remedy}", reason="InvalidImage")


def exception(exc: BaseException) -> AppleError:
    """An Objective-C exception, as PyObjC raises it (ValueError, IndexError, objc.error …)."""
    return AppleError("NSException", 0, f"{type(exc).__name__}: {exc}")
