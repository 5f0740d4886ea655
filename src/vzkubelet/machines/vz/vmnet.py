"""Logical networks of vmnet.framework (macOS 26), which PyObjC does not wrap: by ctypes, as an opaque pointer.

A network belongs to the process that made it: only guests of that process can be attached to it (vmnet.h,
VZVmnetNetworkDeviceAttachment.h). Callers check for macOS 26 first.
"""

import ctypes
import functools
import weakref
from typing import Any

from vzkubelet.errors import Exhausted, Forbidden, MachineFault, Unsupported
from vzkubelet.machines.vz.plan import VmnetMode

_VMNET = "/System/Library/Frameworks/vmnet.framework/vmnet"
_CORE_FOUNDATION = "/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation"
_MODES = {VmnetMode.HOST: 1000, VmnetMode.SHARED: 1001}  # operating_modes_t
_SUCCESS, _INVALID_ACCESS, _SHARING_SERVICE_BUSY, _NOT_AUTHORIZED = 1000, 1005, 1009, 1010
_TEXTS = {
    1001: "general failure",
    1002: "out of memory",
    1003: "invalid argument",
    1004: "the interface is not complete",
    _INVALID_ACCESS: "permission denied",
    1006: "a packet is larger than the MTU",
    1007: "the kernel has no buffers",
    1008: "too many packets",
    _SHARING_SERVICE_BUSY: "a conflicting sharing service is in use",
    _NOT_AUTHORIZED: "not authorized",
}
"""vmnet_return_t."""


class LogicalNetwork:
    """A vmnet_network_ref, released when nothing refers to this object any more."""

    def __init__(self, address: int, core_foundation: Any) -> None:
        self.pointer = ctypes.c_void_p(address)
        weakref.finalize(self, core_foundation.CFRelease, ctypes.c_void_p(address)).atexit = False


@functools.cache
def opaque_type(objc: Any) -> Any:
    """PyObjC's type for the argument of ``initWithNetwork:``. Made once: a process has one type per encoding."""
    return objc.createOpaquePointerType("vmnet_network_ref", b"^{vmnet_network=}")


def load(vmnet: str = _VMNET, core_foundation: str = _CORE_FOUNDATION) -> tuple[Any, Any]:
    """Both libraries, with the signatures of what is called. Raises Unsupported where they have no such functions."""
    try:
        library, foundation = ctypes.CDLL(vmnet), ctypes.CDLL(core_foundation)
        declare(library, foundation)
    except (OSError, AttributeError) as exc:
        raise Unsupported(
            f"this host's vmnet.framework makes no networks ({exc}): they need macOS 26; use NAT",
            reason="UnsupportedHost",
        ) from exc
    return library, foundation


def declare(library: Any, foundation: Any) -> None:
    """On arm64 a call without its argument types goes wrong silently."""
    status = ctypes.POINTER(ctypes.c_uint32)
    library.vmnet_network_configuration_create.argtypes = [ctypes.c_uint32, status]
    library.vmnet_network_configuration_create.restype = ctypes.c_void_p
    library.vmnet_network_create.argtypes = [ctypes.c_void_p, status]
    library.vmnet_network_create.restype = ctypes.c_void_p
    foundation.CFRelease.argtypes = [ctypes.c_void_p]
    foundation.CFRelease.restype = None


def create(mode: VmnetMode, libraries: tuple[Any, Any] | None = None) -> LogicalNetwork:
    """A new network, with a subnet that vmnet chooses. Raises Unsupported, Forbidden, Exhausted, MachineFault."""
    library, foundation = libraries or load()
    status = ctypes.c_uint32(_SUCCESS)
    configuration = library.vmnet_network_configuration_create(_MODES[mode], ctypes.byref(status))
    if not configuration:
        raise _failure(mode, status.value)
    try:
        network = library.vmnet_network_create(configuration, ctypes.byref(status))
    finally:
        foundation.CFRelease(configuration)
    if not network:
        raise _failure(mode, status.value)
    return LogicalNetwork(network, foundation)


def _failure(mode: VmnetMode, status: int) -> Exception:
    reason = f"vmnet made no {mode} network: {_TEXTS.get(status, 'unknown status')} ({status})"
    if status in (_NOT_AUTHORIZED, _INVALID_ACCESS):
        return Forbidden(
            f"{reason}; the helper must be signed with com.apple.security.virtualization, and where that is not enough "
            "with com.apple.vm.networking: run `macos-vz-kubelet sign` and restart the agent, or use NAT",
            reason="NotEntitled",
        )
    if status == _SHARING_SERVICE_BUSY:
        return Exhausted(
            f"{reason}; turn Internet Sharing off and stop other virtual machine programs",
            reason="NetworkInUse",
        )
    return MachineFault(
        f"{reason}; `log show --last 5m --predicate 'process == \"InternetSharing\"'` tells more", code=status
    )
