"""NSError objects, with the texts that Apple's frameworks give them."""

from typing import Any

from .backing import GuestFault
from .faults import Fault
from .objects import Failed, construct

VZ_ERROR_DOMAIN = "VZErrorDomain"
POSIX_ERROR_DOMAIN = "NSPOSIXErrorDomain"

INTERNAL, INVALID_CONFIGURATION, INVALID_STATE, INVALID_TRANSITION, INVALID_DISK_IMAGE = 1, 2, 3, 4, 5
LIMIT_EXCEEDED, NETWORK, OUT_OF_DISK_SPACE, CANCELLED, NOT_SUPPORTED, SAVE, RESTORE = 6, 7, 8, 9, 10, 11, 12
CATALOG_LOAD_FAILED, INVALID_RESTORE_IMAGE, RESTORE_IMAGE_LOAD_FAILED = 10001, 10002, 10005
INSTALLATION_REQUIRES_UPDATE, INSTALLATION_FAILED = 10006, 10007

TEXTS = {
    INTERNAL: "Internal Virtualization error. The virtual machine failed to start.",
    INVALID_CONFIGURATION: "Invalid virtual machine configuration.",
    INVALID_STATE: "Invalid virtual machine state.",
    INVALID_TRANSITION: "Invalid virtual machine state transition.",
    INVALID_DISK_IMAGE: "Invalid disk image. The disk image is corrupted or has an unknown format.",
    LIMIT_EXCEEDED: "The maximum supported number of active virtual machines has been reached.",
    NETWORK: "A network error occurred. The network device attachment was disconnected.",
    OUT_OF_DISK_SPACE: "The disk is out of space.",
    CANCELLED: "The operation was cancelled.",
    NOT_SUPPORTED: "The operation is not supported.",
    SAVE: "The virtual machine's state could not be saved.",
    RESTORE: "The virtual machine's state could not be restored.",
    CATALOG_LOAD_FAILED: "The restore image catalog failed to load.",
    INVALID_RESTORE_IMAGE: "The restore image catalog is invalid.",
    RESTORE_IMAGE_LOAD_FAILED: "The restore image failed to load.",
    INSTALLATION_REQUIRES_UPDATE: "A software update is required to complete the installation.",
    INSTALLATION_FAILED: "The installation failed.",
}


def new_error(
    domain: str, code: int, text: str = "", reason: str = "", underlying: Any = None
) -> Any:  # fmt: skip
    info: dict[str, Any] = {"NSLocalizedDescription": text or TEXTS.get(code, f"The operation failed ({code}).")}
    if reason:
        info["NSLocalizedFailureReason"] = reason
    if underlying is not None:
        info["NSUnderlyingError"] = underlying
    return construct("NSError", _domain=domain, _code=code, _info=info)


def make_error(failure: Failed | GuestFault | Fault) -> Any:
    """An NSError of whatever says what went wrong."""
    match failure:
        case Fault():
            assert failure.code is not None
            below = failure.underlying
            underlying = new_error(below.domain, below.code, below.text) if below is not None else None
            return new_error(failure.domain, failure.code, failure.text, failure.reason, underlying)
        case Failed():
            return new_error(failure.domain, failure.code, failure.text, failure.reason)
        case GuestFault():
            return new_error(failure.domain, failure.code, failure.text)
