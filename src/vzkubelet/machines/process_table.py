"""What the kernel says of processes: procfs and pidfd on Linux, libproc, sysctl and kqueue on macOS."""

import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vzkubelet import sysctl
from vzkubelet.errors import Unsupported

_PROC = Path("/proc")
_PROC_PIDTBSDINFO = 3
_FIND_ZOMBIES = 1
_BSDINFO_BYTES = 136
_SZOMB = 5  # sys/proc.h


@dataclass(frozen=True, slots=True)
class Sighting:
    """A process as it is now. `start` tells it from every other one that has its pid in this boot: clock ticks since
    the boot on Linux, microseconds since the epoch on macOS."""

    start: int
    ended: bool
    """Nobody has collected its exit yet."""


def sighting(pid: int) -> Sighting | None:
    """The process that has this pid now; None when there is none."""
    return _darwin_sighting(pid) if sys.platform == "darwin" else _linux_sighting(pid)


def _linux_stat(pid: int) -> list[str] | None:
    """The fields of proc(5) ``stat`` after the name, which may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _linux_sighting(pid: int) -> Sighting | None:
    fields = _linux_stat(pid)
    return None if fields is None else Sighting(int(fields[19]), fields[0] in "ZX")


def _darwin_sighting(pid: int) -> Sighting | None:
    buffer = ctypes.create_string_buffer(_BSDINFO_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.proc_pidinfo.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int]
    length = libc.proc_pidinfo(pid, _PROC_PIDTBSDINFO, _FIND_ZOMBIES, buffer, _BSDINFO_BYTES)
    return read_bsdinfo(buffer.raw) if length == _BSDINFO_BYTES else None


def read_bsdinfo(raw: bytes) -> Sighting:
    """``struct proc_bsdinfo`` (sys/proc_info.h): pbi_status at 4, pbi_start_tvsec and pbi_start_tvusec at 120."""
    (status,) = struct.unpack_from("=I", raw, 4)
    seconds, microseconds = struct.unpack_from("=QQ", raw, 120)
    return Sighting(seconds * 1_000_000 + microseconds, status == _SZOMB)


def boot_id() -> str:
    return _darwin_boot_id() if sys.platform == "darwin" else (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _darwin_boot_id() -> str:
    try:
        return sysctl.read("kern.bootsessionuuid").rstrip(b"\0").decode().lower()
    except OSError as exc:
        raise Unsupported(f"this system does not tell its boot: {exc.strerror}") from exc


def cpu_ns(pid: int) -> int:
    """CPU time of the process so far, 0 when it has ended."""
    if sys.platform == "darwin":
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            return int((times.user + times.system) * 1e9)
        return 0
    fields = _linux_stat(pid)
    if fields is None:
        return 0
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Resident memory, shared pages included; 0 when the process has ended."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def pids() -> list[int]:
    return psutil.pids()


def environment(pid: int) -> list[bytes]:
    """``NAME=value`` of every variable the process was started with; none when it has ended or is somebody else's.

    macOS hides the environment of programs with entitlements, so there arguments of that form count too.
    """
    if sys.platform == "darwin":
        found: list[str] = []
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            with contextlib.suppress(psutil.Error, OSError):  # where one is refused the other may not be
                found += [f"{name}={value}" for name, value in process.environ().items()]
            found += process.cmdline()
        return [os.fsencode(text) for text in found]
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


@contextlib.contextmanager
def end_descriptor(pid: int) -> Iterator[int | None]:
    """A descriptor that can be read once the process has ended; None when there is no such process, or no longer."""
    descriptor: int | None
    if sys.platform == "darwin":
        queue = select.kqueue()
        descriptor = queue.fileno()
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        try:
            queue.control([event], 0)
        except ProcessLookupError:
            descriptor = None  # a zombie has none either, see `collect`
        try:
            yield descriptor
        finally:
            queue.close()
    else:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        except OSError as exc:
            text = f"cannot watch processes (pidfd_open: {exc.strerror}); Linux 5.4 or later is needed"
            raise Unsupported(text) from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def send_signal(pid: int, descriptor: int, number: signal.Signals) -> None:
    """Signal the process that `descriptor`, of `end_descriptor`, stands for. Raises ProcessLookupError."""
    if sys.platform == "darwin":
        os.kill(pid, number)
    else:
        signal.pidfd_send_signal(descriptor, number)


def collect(pid: int, descriptor: int | None) -> int | None:
    """The exit status of a process that has ended, negative for a signal, where it was started by this process.

    `descriptor` is its `end_descriptor`; None for a process that is known by its pid alone.
    """
    try:
        if descriptor is None or sys.platform == "darwin":
            # macOS tells an end a moment before there is a status to collect, so this may wait for that moment.
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        result = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
