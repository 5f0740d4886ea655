"""The guest side of synthetic machines: processes that do nothing for as long as they are told to.

A program is `true`, `false`, `sleep N`, `exit N` or a shell running one or several of these; anything else runs until
it is signalled, and says so on its stderr. When and how a process ends follows from its record in the machine's
directory and the time, so a daemon that comes back finds the same answer.
"""

import asyncio
import math
import re
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, NotFound, Unavailable
from vzkubelet.files import write_atomic
from vzkubelet.machines.synthetic import SyntheticDriver
from vzkubelet.ports import (
    ExecRequest,
    ExitStatus,
    Guest,
    GuestAddress,
    GuestMount,
    GuestProcess,
    GuestUsage,
    MachinePhase,
    OutputLog,
    OutputStream,
    Streams,
)

_SHELLS = frozenset({"sh", "/bin/sh", "bash", "/bin/bash"})
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class Course(msgspec.Struct, frozen=True):
    """What a process does: it runs for `seconds` (None = for ever) and ends with `code`."""

    seconds: float | None
    code: int = 0
    understood: bool = True


class ProcessRecord(msgspec.Struct):
    id: str
    argv: tuple[str, ...]
    started_at: float
    signalled_at: float | None = None
    signal: int = 0


def course(argv: Sequence[str]) -> Course:
    """Pure."""
    if len(argv) == 3 and argv[0] in _SHELLS and argv[1] == "-c":
        return _script(argv[2])
    return _command(list(argv)) or Course(None, understood=False)


def _script(text: str) -> Course:
    """A list of understood commands, one after another (``;`` or ``&&``)."""
    seconds, last = 0.0, Course(0.0)
    for part in re.split(r";|&&", text):
        try:
            words = shlex.split(part)
        except ValueError:
            return Course(None, understood=False)
        if not words:
            continue
        step = _command(words)
        if step is None:
            return Course(None, understood=False)
        if step.seconds is None:
            return step
        seconds, last = seconds + step.seconds, step
        if words[0] == "exit":
            break
    return Course(seconds, last.code)


def _command(words: list[str]) -> Course | None:
    match words:
        case ["true" | "/bin/true"] | ["exit"]:
            return Course(0.0)
        case ["false" | "/bin/false"]:
            return Course(0.0, 1)
        case ["exit", code] if code.isdecimal():
            return Course(0.0, int(code) & 0xFF)
        case ["sleep" | "/bin/sleep", "infinity"]:
            return Course(None)
        case ["sleep" | "/bin/sleep", seconds] if _NUMBER.fullmatch(seconds):
            return Course(float(seconds))
        case _:
            return None


def ending(record: ProcessRecord) -> tuple[float, ExitStatus]:
    """When the process ends (may be infinite) and how. Pure."""
    plan = course(record.argv)
    natural = math.inf if plan.seconds is None else record.started_at + plan.seconds
    if record.signalled_at is not None and record.signalled_at < natural:
        return record.signalled_at, ExitStatus((128 + record.signal) & 0xFF, record.signal)
    return natural, ExitStatus(plan.code)


class Signals:
    """Tells those who follow a process of a machine that one was signalled, over whichever channel."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    async def wait(self, uid: str) -> None:
        await self._events.setdefault(uid, asyncio.Event()).wait()

    def notify(self, uid: str) -> None:
        self._events.pop(uid, asyncio.Event()).set()


class SyntheticGuests:
    """See `ports.Guests`."""

    def __init__(self, driver: SyntheticDriver) -> None:
        self._driver = driver
        self._signals = Signals()

    async def connect(self, address: GuestAddress, host_key: Path, deadline_s: float) -> Guest:
        try:
            uid = self._driver.machine_at(address.ssh_host)
        except NotFound as exc:
            raise DeadlineExceeded(f"no guest answers at {address.ssh_host}: {exc}") from exc
        return SyntheticGuest(self._driver, uid, self._signals)


class SyntheticGuest:
    """See `ports.Guest`."""

    def __init__(self, driver: SyntheticDriver, uid: str, signals: "Signals") -> None:
        self._driver = driver
        self._uid = uid
        self._signals = signals

    async def _running(self) -> None:
        status = await self._driver.status(self._uid)
        if status.phase is not MachinePhase.RUNNING:
            raise Unavailable(f"machine {self._uid} does not run")

    def _records(self) -> dict[str, ProcessRecord]:
        try:
            content = self._driver.directory(self._uid).processes.read_bytes()
        except FileNotFoundError:
            return {}
        return msgspec.json.decode(content, type=dict[str, ProcessRecord])

    def _write(self, records: dict[str, ProcessRecord]) -> None:
        write_atomic(self._driver.directory(self._uid).processes, msgspec.json.encode(records))

    def _record(self, process_id: str) -> ProcessRecord:
        record = self._records().get(process_id)
        if record is None:
            raise NotFound(f"no process {process_id} was started in machine {self._uid}")
        return record

    async def prepare(self, hostname: str, mounts: Sequence[GuestMount]) -> None:
        await self._running()

    async def start(self, process: GuestProcess) -> None:
        await self._running()
        records = self._records()
        if process.id not in records:
            records[process.id] = ProcessRecord(process.id, process.argv, time.time())
            self._write(records)

    async def follow(self, process_id: str, log: OutputLog) -> ExitStatus:
        record = self._record(process_id)
        if not course(record.argv).understood and not log.received_bytes(OutputStream.STDERR):
            log.append(
                OutputStream.STDERR, b"synthetic guest: this program is not understood, it runs until signalled\n"
            )
        stopped = aio.spawn(self._driver.wait(self._uid), name=f"end of {self._uid}")
        try:
            while True:
                await self._running()
                at, status = ending(self._record(process_id))
                if at <= time.time():
                    return status
                signalled = aio.spawn(self._signals.wait(self._uid), name=f"signals of {self._uid}")
                remaining = None if math.isinf(at) else at - time.time()
                await asyncio.wait({stopped, signalled}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
                await aio.cancel(signalled)
        finally:
            await aio.cancel(stopped)

    async def signal(self, process_id: str, signal: int) -> None:
        record = self._record(process_id)
        if ending(record)[0] <= time.time():
            raise NotFound(f"process {process_id} has ended")
        record.signalled_at, record.signal = time.time(), signal
        self._write(self._records() | {process_id: record})
        self._signals.notify(self._uid)

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        async for _ in chunks:
            continue

    async def exec(self, request: ExecRequest, process: GuestProcess | None, streams: Streams) -> ExitStatus:
        await self._running()
        plan = course(request.argv)
        if not plan.understood:
            await streams.write_stderr(b"synthetic guest: this program is not understood\n")
            return ExitStatus(127)
        await asyncio.sleep(math.inf if plan.seconds is None else plan.seconds)
        return ExitStatus(plan.code)

    async def usage(self) -> GuestUsage:
        used = await self._driver.usage(self._uid)
        memory = self._driver.directory(self._uid).read_record().memory_bytes
        return GuestUsage(used.cpu_ns, memory, memory - used.memory_bytes, 1 << 30, 1 << 20, used.sampled_at)

    async def shut_down(self) -> None:
        await self._driver.power_off(self._uid)

    async def close(self) -> None:
        return
