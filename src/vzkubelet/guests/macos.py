"""What is particular to macOS guests: places for shares, the host name, figures and power-off.

The guest's half is `macos.sh`. Nothing is installed there: what it runs is part of macOS 12 and later.
"""

import base64
import binascii
import re
import struct
from collections.abc import Sequence

from vzkubelet.errors import Unavailable, clip
from vzkubelet.guests.shell import load, quote, words
from vzkubelet.ports import GuestMount, GuestUsage

_TICK_NS = 10_000_000
"""CLK_TCK is 100 on macOS."""

_HOST_CPU_LOAD_INFO = 3
"""Flavor of host_statistics(3): ticks of all processors since boot as user, system, idle, nice (mach/host_info.h)."""

_TICKS = (
    "ObjC.import('Foundation');"
    "ObjC.bindFunction('mach_host_self',['unsigned int',[]]);"
    "ObjC.bindFunction('host_statistics',['int',['unsigned int','int','void *','void *']]);"
    "const ticks=$.NSMutableData.dataWithLength(16);"
    "const words=$.NSMutableData.alloc.initWithBase64EncodedStringOptions('BAAAAA==',0);"  # 4 as an integer
    f"$.host_statistics($.mach_host_self(),{_HOST_CPU_LOAD_INFO},ticks.mutableBytes,words.mutableBytes);"
    "ticks.base64EncodedStringWithOptions(0).js"
)
"""No command of macOS prints a counter of CPU time; its JavaScript can ask the kernel for it."""

USAGE = f"""echo "ticks $(osascript -l JavaScript -e {quote(_TICKS)} 2>/dev/null)"
ps -A -o time= | tr '\\n' ' '
echo
sysctl hw.memsize
vm_stat
df -kP /System/Volumes/Data 2>/dev/null || df -kP /
"""

_PAGE_BYTES = re.compile(r"page size of (\d+) bytes")
_RECLAIMABLE = ("Pages inactive", "Pages speculative", "Pages purgeable")


def become_root(is_root: bool, password: str) -> str:
    """The variables that the scripts expect (see `macos.sh`)."""
    return "root= password=\n" if is_root else f"root='sudo -n' password={quote(password)}\n"


def prepare(hostname: str, mounts: Sequence[GuestMount]) -> str:
    """A script that brings the guest into this state; prints ``error TEXT`` for what failed. Repeating it is free."""
    lines = [load("macos.sh"), "elevate"]
    if hostname:
        lines.append(f"name {quote(hostname)}")
    for mount in mounts:
        mode = "ro" if mount.read_only else "rw"
        lines.append(f"place {words([mount.tag, mount.sub_path.strip('/'), mount.mount_path, mode])}")
    return "\n".join([*lines, "exit 0"]) + "\n"


def shut_down() -> str:
    """A script that powers the guest off a moment after it has ended itself."""
    halt = "{ sleep 0.1;as_root shutdown -h now||as_root halt;} </dev/null >/dev/null 2>&1 &"
    return f"{load('macos.sh')}elevate\n{halt}\n"


def usage(text: str, sampled_at: float) -> GuestUsage:
    """Parse the output of `USAGE`. Raises Unavailable when a figure is missing.

    The disk's use is what the whole volume group takes: its volumes share their space, and what counts is what is left.
    """
    try:
        lines = text.splitlines()
        pages = {name: int(rest.rstrip(".")) for name, _, rest in map(_split, lines) if name.startswith("Pages ")}
        page_bytes = int(_PAGE_BYTES.findall(text)[0])
        available_bytes = page_bytes * (
            pages["Pages free"] + sum(pages[name] for name in _RECLAIMABLE if name in pages)
        )
        total_bytes = next(int(rest) for name, _, rest in map(_split, lines) if name == "hw.memsize")
        disk = re.split(r"\s+", lines[-1])
        disk_total_bytes, disk_available_bytes = int(disk[1]) * 1024, int(disk[3]) * 1024
        return GuestUsage(
            cpu_ns=_cpu_ns(lines[0], lines[1]),
            memory_total_bytes=total_bytes,
            memory_available_bytes=min(available_bytes, total_bytes),
            disk_total_bytes=disk_total_bytes,
            disk_used_bytes=disk_total_bytes - disk_available_bytes,
            sampled_at=sampled_at,
        )
    except (LookupError, ValueError, StopIteration) as exc:
        raise Unavailable(f"the guest's figures cannot be read: {clip(text)}") from exc


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _cpu_ns(ticks: str, times: str) -> int:
    """From the kernel's counter; where it cannot be asked, from the times of the processes that live."""
    encoded = ticks.removeprefix("ticks").strip()
    user: int
    system: int
    nice: int
    try:
        user, system, _, nice = struct.unpack("<4I", base64.b64decode(encoded, validate=True))
    except (binascii.Error, struct.error):
        return sum(map(_time_ns, times.split()))
    return (user + system + nice) * _TICK_NS


def _time_ns(text: str) -> int:
    """``MINUTES:SECONDS.HUNDREDTHS`` of ps(1), with hours or days in front where it writes them."""
    parts = reversed(text.replace("-", ":").split(":"))
    seconds = sum(float(part) * weight for part, weight in zip(parts, (1, 60, 3600, 86400), strict=False))
    return round(seconds * 1_000_000_000)
