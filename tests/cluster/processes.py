"""Child processes that are known by pid and start time, so that nobody else's process is ever stopped."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec
import psutil

TAIL_BYTES = 6000
TAIL_LINES = 25
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Daemons are meant to outlive us, but while we live they are our children and somebody has to reap them.
_daemons: dict[int, subprocess.Popen[bytes]] = {}


class ComponentFailed(RuntimeError):
    """A component did not start, or died; the message carries the end of its log."""


class Lifetime(Enum):
    """What happens to a child when the process that started it dies without stopping it."""

    WITH_PARENT = "with-parent"
    PERSISTENT = "persistent"


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Names one process for good: a pid alone is reused, with its start identity it is not."""

    name: str
    pid: int
    start_identity: str
    log: str
    stop_grace_s: float = 10.0

    def is_alive(self) -> bool:
        return start_identity(self.pid) == self.start_identity


def start_identity(pid: int) -> str | None:
    """Boot and start time of a live process; None when there is none or only a zombie is left.

    On Linux the kernel's own clock ticks and boot id are used: they do not move when the wall clock is set.
    """
    if _BOOT_ID.exists():
        try:
            # The command name may hold spaces and parentheses; the fields after the last one are fixed (proc(5)).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, thread_count = fields[0], int(fields[17])
        # A first thread that has exited looks like a zombie while other threads still run.
        if state in "ZX" and thread_count <= 1:
            return None
        return f"{_BOOT_ID.read_text().strip()}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def stop_recorded(record: ProcessRecord) -> None:
    """SIGTERM, then SIGKILL after the grace; returns when the process is gone.

    A process that took over the pid is left alone.
    """
    if not record.is_alive():
        return
    for signal_number, patience_s in ((signal.SIGTERM, record.stop_grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal_number)
        if _wait_gone(record, patience_s):
            return
    raise ComponentFailed(f"{record.name} (pid {record.pid}) is still there after SIGKILL: it hangs in the kernel")


def _wait_gone(record: ProcessRecord, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while record.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    if popen := _daemons.pop(record.pid, None):
        popen.wait()
    return True


@dataclass(slots=True)
class ChildProcess:
    """A component that this process started."""

    record: ProcessRecord
    _popen: subprocess.Popen[bytes] = field(repr=False)

    @property
    def log(self) -> Path:
        return Path(self.record.log)

    def exit_code(self) -> int | None:
        return self._popen.poll()

    def stop(self) -> None:
        """SIGTERM, SIGKILL after the grace, and reap."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(self.record.stop_grace_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self._popen.wait()

    def kill(self) -> None:
        """SIGKILL and reap: what a crash looks like."""
        self._popen.kill()
        self._popen.wait()

    def failure(self, what: str) -> ComponentFailed:
        return ComponentFailed(f"{self.record.name} {what}; the end of {self.log}:\n{tail(self.log)}")


def spawn(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    lifetime: Lifetime,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stop_grace_s: float = 10.0,
) -> ChildProcess:
    """Start a component in a session of its own (a Ctrl-C reaches only us), with both outputs appended to `log`.

    That a child dies with us is the kernel's work and needs setpriv(1), so Linux.
    """
    argv = [str(part) for part in command]
    setpriv = shutil.which("setpriv")
    if lifetime is Lifetime.WITH_PARENT and setpriv:
        argv = [setpriv, "--pdeathsig=KILL", "--", *argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
            cwd=directory,
            start_new_session=True,
        )
    # Exec keeps the start time, so it may be read before setpriv has become the component. Until we reap it the pid
    # cannot be reused; "gone" can only mean that it has failed already.
    record = ProcessRecord(
        name=name,
        pid=popen.pid,
        start_identity=start_identity(popen.pid) or "gone",
        log=str(log),
        stop_grace_s=stop_grace_s,
    )
    if lifetime is Lifetime.PERSISTENT:
        _daemons[popen.pid] = popen
    return ChildProcess(record, popen)


def wait_until(ready: Callable[[], bool], child: ChildProcess, *, what: str, timeout_s: float) -> None:
    """Poll `ready` until it holds.

    Raises: ComponentFailed when the child exits first or `timeout_s` passes, with the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if (code := child.exit_code()) is not None:
            raise child.failure(f"exited with code {code} before {what}")
        if time.monotonic() > deadline:
            raise child.failure(f"runs, but not yet after {timeout_s:g} s: {what}")
        time.sleep(0.05)


def tail(log: Path) -> str:
    """The last lines of a log file, indented."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"    {line[:400]}" for line in lines[-TAIL_LINES:]) or "    (empty)"
