"""Processes that outlive the daemon: started apart from it, known by (pid, start time, boot), watched by the kernel."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet.aio import run_blocking
from vzkubelet.errors import DeadlineExceeded, MachineFault
from vzkubelet.machines import process_table
from vzkubelet.machines.process_table import boot_id as boot_id

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of a Debian host lie; the environment of the daemon is not handed on to what it starts."""
OWNER = "VZKUBELET_OWNER"
"""Environment variable of every process started here: the directory it belongs to. It is set in the same system call
that starts the program, so there is no moment in which a crash of the daemon leaves a process nobody can find."""
ROLE = "VZKUBELET_ROLE"
_COMMAND_TIMEOUT_S = 30.0
_STATUSES_KEPT = 256
_KILL_TIMEOUT_S = 30.0
"""A killed process that is not gone by then hangs in the kernel; waiting longer would not help."""


class ProcessRef(msgspec.Struct, frozen=True):
    """One process for ever: a reused pid has another start time, another boot another id."""

    pid: int
    start_ticks: int
    """`process_table.Sighting.start`."""
    boot_id: str


@dataclass(frozen=True, slots=True)
class OwnedProcess:
    """A process found by its mark."""

    ref: ProcessRef
    owner: str
    role: str


def reference(pid: int) -> ProcessRef | None:
    """The process that has this pid now; None when it has ended."""
    found = process_table.sighting(pid)
    return None if found is None or found.ended else ProcessRef(pid, found.start, boot_id())


def is_alive(ref: ProcessRef) -> bool:
    return reference(ref.pid) == ref


def cpu_ns(ref: ProcessRef) -> int:
    """CPU time of the process so far, 0 when it has ended."""
    return process_table.cpu_ns(ref.pid) if is_alive(ref) else 0


def resident_bytes(ref: ProcessRef) -> int:
    """Resident memory, shared pages included; 0 when the process has ended."""
    return process_table.resident_bytes(ref.pid) if is_alive(ref) else 0


def owned(under: Path) -> list[OwnedProcess]:
    """Every live process whose owner is `under` or lies below it, found by its environment."""
    found = []
    prefix = os.fsencode(f"{OWNER}={under}")
    for pid in process_table.pids():
        variables = process_table.environment(pid)
        owner = next((v for v in variables if v == prefix or v.startswith(prefix + b"/")), None)
        if owner is None:
            continue
        ref = reference(pid)
        if ref is not None:
            role = next((v for v in variables if v.startswith(f"{ROLE}=".encode())), b"=")
            found.append(OwnedProcess(ref, os.fsdecode(owner.partition(b"=")[2]), os.fsdecode(role.partition(b"=")[2])))
    return found


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one program. `stdin` and `stdout` are descriptors, None = nothing; `log` receives stderr."""

    argv: Sequence[str]
    owner: Path
    role: str
    cwd: Path
    log: Path
    stdin: int | None = None
    stdout: int | None = None
    pass_fds: tuple[int, ...] = ()
    environment: Mapping[str, str] | None = None
    """Beside the marks; None = a plain one, for programs of the host that need nothing of the user's."""


def launch(how: Launch) -> ProcessRef:
    """Start a program in a session of its own; it knows nothing of this process and survives it.

    Raises: MachineFault when it cannot be started.
    """
    plain = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
    environment = {**(plain if how.environment is None else how.environment), OWNER: str(how.owner), ROLE: how.role}
    try:
        with how.log.open("ab") as log:
            process = subprocess.Popen(
                how.argv,
                cwd=how.cwd,
                env=environment,
                stdin=subprocess.DEVNULL if how.stdin is None else how.stdin,
                stdout=subprocess.DEVNULL if how.stdout is None else how.stdout,
                stderr=log,
                pass_fds=how.pass_fds,
                start_new_session=True,
            )
    except OSError as exc:
        raise MachineFault(f"cannot start {how.argv[0]}: {exc.strerror or exc}") from exc
    # Popen was only the launcher: the exit is collected by `ExitWatch`, whoever is the parent by then.
    process.returncode = 0
    found = process_table.sighting(process.pid)
    assert found is not None, "an unreaped child is always in the table"
    return ProcessRef(process.pid, found.start, boot_id())


def send_signal(ref: ProcessRef, number: signal.Signals) -> None:
    """Signal exactly this process; one that has ended is no error."""
    with _watched(ref) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                process_table.send_signal(ref.pid, descriptor, number)


@contextlib.contextmanager
def _watched(ref: ProcessRef) -> Iterator[int | None]:
    """A descriptor of this very process; None when it has ended (a zombie may still have one)."""
    with process_table.end_descriptor(ref.pid) as descriptor:
        found = process_table.sighting(ref.pid)  # after the open: the pid cannot have changed hands since
        same = found is not None and found.start == ref.start_ticks and boot_id() == ref.boot_id
        yield descriptor if same else None


_statuses: dict[ProcessRef, int] = {}
"""What the kernel tells once, for everybody who waits for the same process: the newest `_STATUSES_KEPT`."""


async def exit_of(ref: ProcessRef) -> int | None:
    """Wait until the process has ended. Its status as `subprocess` gives it (negative = signal) where it was started
    by this process, else None. Any number of callers may wait for one process, also one after another."""
    status = await _collected(ref)
    if status is None:
        return _statuses.get(ref)
    _statuses[ref] = status
    while len(_statuses) > _STATUSES_KEPT:
        del _statuses[next(iter(_statuses))]
    return status


async def _collected(ref: ProcessRef) -> int | None:
    """The status, for the first who asks; None for all others."""
    loop = asyncio.get_running_loop()
    with _watched(ref) as descriptor:
        if descriptor is None:
            found = process_table.sighting(ref.pid)
            uncollected = found is not None and found.ended and found.start == ref.start_ticks
            return process_table.collect(ref.pid, None) if uncollected else None
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
        return process_table.collect(ref.pid, descriptor)


async def kill(refs: Sequence[ProcessRef]) -> None:
    """SIGKILL and wait until all are gone. Raises: DeadlineExceeded when the kernel does not let one go."""
    for ref in refs:
        send_signal(ref, signal.SIGKILL)
    try:
        async with asyncio.timeout(_KILL_TIMEOUT_S):
            for ref in refs:
                await exit_of(ref)
    except TimeoutError:
        stuck = ", ".join(str(ref.pid) for ref in refs if is_alive(ref))
        raise DeadlineExceeded(
            f"process {stuck} did not die within {_KILL_TIMEOUT_S:.0f} s of SIGKILL: it hangs in the kernel"
        ) from None


async def terminate(refs: Sequence[ProcessRef], grace_s: float) -> list[ProcessRef]:
    """SIGTERM, and SIGKILL for those that have not ended by themselves within `grace_s`, which are returned.

    Raises as `kill`.
    """
    for ref in refs:
        send_signal(ref, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            for ref in refs:
                await exit_of(ref)
    left = [ref for ref in refs if is_alive(ref)]
    await kill(left)
    return left


async def run(*command: str, stdin: str = "") -> tuple[int, str]:
    """Run a short command to its end: exit status, then its output or, when it failed, what it said about it.

    On cancellation the command goes on to its end; callers use commands that can be repeated.
    Raises: MachineFault (cannot be started), DeadlineExceeded.
    """
    try:
        done = await run_blocking(_run, command, stdin)
    except OSError as exc:
        raise MachineFault(f"cannot run {command[0]}: {exc.strerror or exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise DeadlineExceeded(f"{' '.join(command)} did not end within {_COMMAND_TIMEOUT_S:.0f} s") from exc
    return done.returncode, done.stderr if done.returncode else done.stdout


def _run(command: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=stdin,
        env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )


def last_words(log: Path, limit_bytes: int = 2000) -> str:
    """The end of a log, for error messages."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
