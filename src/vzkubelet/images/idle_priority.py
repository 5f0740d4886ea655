"""The lowest priority for a thread, for disk and processor: it takes only what nobody else wants."""

import ctypes
import logging
import os
import platform
import sys

_log = logging.getLogger(__name__)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "arm64": 30}
"""Number of the system call (asm/unistd.h)."""
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13
_IOPOL_TYPE_DISK = 0
_IOPOL_SCOPE_THREAD = 1
_IOPOL_THROTTLE = 3
"""sys/resource.h of macOS: held back whenever anybody else uses the disk."""
_LOWEST_NICE = 19


def take_idle_priority() -> bool:
    """For a thread that ends with this work; False where the system refuses, which is only logged."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        failed = libc.setiopolicy_np(_IOPOL_TYPE_DISK, _IOPOL_SCOPE_THREAD, _IOPOL_THROTTLE)
    else:
        number = _IOPRIO_SET.get(platform.machine())
        if number is None:
            return False
        # 0 is the calling thread, for both calls: priorities belong to threads on Linux.
        failed = libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_NICE)
    if failed:
        _log.debug("no idle priority for the disk: %s", os.strerror(ctypes.get_errno()))
    return not failed
