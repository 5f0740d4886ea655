"""What a running guest uses: its helper, the helper's children, and on a Mac the framework's own process."""

import contextlib
import sys
from pathlib import Path

import psutil

_SERVICE = "com.apple.Virtualization.VirtualMachine"
"""The XPC service that runs a guest. It is no child of the helper; the disk that it has open tells whose it is."""
_SHOWN = 15
"""Characters of a process' name that the kernel keeps."""


def guest_usage(helper_pid: int, disk: Path) -> tuple[int, int]:
    """CPU time in nanoseconds and resident bytes of everything that runs the guest; zeros when it has ended."""
    cpu_s, memory_bytes = 0.0, 0
    with contextlib.suppress(psutil.Error):
        helper = psutil.Process(helper_pid)
        for process in (helper, *helper.children(recursive=True), *_services(disk)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory_bytes += process.memory_info().rss
    return int(cpu_s * 1e9), memory_bytes


def _services(disk: Path) -> list[psutil.Process]:
    """The framework's processes that have `disk` open; those of other users cannot be looked into and are not ours."""
    found: list[psutil.Process] = []
    if sys.platform == "darwin":
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                is_service = process.name().startswith(_SERVICE[:_SHOWN])
                if is_service and any(_is_same(opened.path, disk) for opened in process.open_files()):
                    found.append(process)
    return found


def _is_same(path: str, disk: Path) -> bool:
    """The kernel tells a path without links and in the letters of the directory entry; ours is as it was given."""
    with contextlib.suppress(OSError):
        return disk.samefile(path)
    return False
