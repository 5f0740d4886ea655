"""One thing that the product does, in a process of its own, so that its memory and its reads can be told.

``python -m bench.images.job JSON`` with a `Job` prints an `Outcome`. Only Linux tells all of it (/proc).
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec

from bench.figures import percentile
from vzkubelet import aio
from vzkubelet.images import Library, Machine, Pusher, PushRequest
from vzkubelet.machines.clone import clone_disk_for_qemu
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.model.reference import parse
from vzkubelet.ports import MachineImage, RegistryCredential

MIB = 1024 * 1024
_LAG_PERIOD_S = 0.005
_REPEATS = 20
"""Of what takes milliseconds."""


class Job(msgspec.Struct, frozen=True):
    verb: Literal["pull", "push", "find", "clone", "remove"]
    root: str
    """Of the store."""
    reference: str
    disk: str = ""
    aux: str = ""
    format: str = "agoda"
    base: str = ""
    directory: str = ""
    """Where clones are made."""


class Outcome(msgspec.Struct, frozen=True):
    seconds: float
    peak_rss_mib: float
    """Above what the process had before it began."""
    lag_p99_ms: float
    """How much later than asked for the event loop came back to a task that sleeps."""
    read_mib: float
    """What the process asked the kernel to read, files and sockets."""
    uploaded_bytes: int = 0
    reused_bytes: int = 0
    disk: str = ""
    """Of the image that was pulled or found."""
    how: str = ""


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    print(msgspec.json.encode(asyncio.run(_run(job))).decode())


async def _run(job: Job) -> Outcome:
    match job.verb:
        case "pull":
            return await _pull(job)
        case "push":
            return await _push(job)
        case "find":
            return await _find(job)
        case "clone":
            return await _clone(job)
        case "remove":
            return await _remove(job)


async def _pull(job: Job) -> Outcome:
    library = Library(Path(job.root))
    try:
        with _Measuring() as measured:
            async with _lag() as lags:
                image = await library.pull(job.reference, ())
            outcome = measured.outcome()
    finally:
        await library.close()
    return msgspec.structs.replace(outcome, lag_p99_ms=1000 * percentile(lags, 0.99), disk=str(image.disk))


async def _push(job: Job) -> Outcome:
    pusher = Pusher(Path(job.root), RegistryCredential(), progress=lambda _: None)
    base = parse(job.base) if job.base else None
    request = PushRequest(Path(job.disk), Path(job.aux), Machine("linux", "amd64"), format=job.format, base=base)
    try:
        with _Measuring() as measured:
            result = await pusher.push(request, [parse(job.reference)])
            outcome = measured.outcome()
    finally:
        await pusher.close()
    return msgspec.structs.replace(outcome, uploaded_bytes=result.uploaded_bytes, reused_bytes=result.reused_bytes)


async def _find(job: Job) -> Outcome:
    """The slowest of the times that a start of a pod pays, the first one of the process included."""
    spent_s: list[float] = []
    with _Measuring() as measured:
        for _ in range(_REPEATS):
            library = Library(Path(job.root))
            began = time.monotonic()
            image = await _found(library, job)
            spent_s.append(time.monotonic() - began)
            await library.close()
        outcome = measured.outcome()
    return msgspec.structs.replace(outcome, seconds=max(spent_s), disk=str(image.disk))


async def _clone(job: Job) -> Outcome:
    """The median; the first ones fill the kernel's caches of names."""
    library = Library(Path(job.root))
    image = await _found(library, job)
    await library.close()
    spent_s, how = [], ""
    with _Measuring() as measured:
        for number in range(_REPEATS):
            machine = MachineDirectory(Path(job.directory, str(number)))
            machine.path.mkdir(parents=True)
            began = time.monotonic()
            how = str(clone_disk_for_qemu(image.disk, machine, users=image.users))
            spent_s.append(time.monotonic() - began)
        outcome = measured.outcome()
    return msgspec.structs.replace(outcome, seconds=percentile(spent_s, 0.5), how=how)


async def _remove(job: Job) -> Outcome:
    library = Library(Path(job.root))
    with _Measuring() as measured:
        await library.remove(job.reference)
        outcome = measured.outcome()
    await library.close()
    return outcome


async def _found(library: Library, job: Job) -> MachineImage:
    image = await library.find(job.reference)
    if image is None:
        raise LookupError(f"{job.reference} is not in {job.root}")
    return image


class _Measuring:
    """Time, memory and reads from the beginning of a block to the call of `outcome`."""

    def __enter__(self) -> "_Measuring":
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on (proc(5))
        self._idle_kib = _status("VmRSS")
        self._read_bytes = _read_bytes()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def outcome(self) -> Outcome:
        seconds = time.monotonic() - self._began
        peak_mib = (_status("VmHWM") - self._idle_kib) / 1024
        return Outcome(seconds, round(peak_mib, 1), 0.0, round((_read_bytes() - self._read_bytes) / MIB, 1))


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


@contextlib.asynccontextmanager
async def _lag() -> AsyncIterator[list[float]]:
    """Seconds by which a task that sleeps briefly was late, each time; at least one."""
    late_s: list[float] = []

    async def sample() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LAG_PERIOD_S)
            late_s.append(time.monotonic() - began - _LAG_PERIOD_S)

    task = aio.spawn(sample(), name="lag of the event loop")
    try:
        yield late_s
    finally:
        await asyncio.sleep(2 * _LAG_PERIOD_S)
        await aio.cancel(task)


if __name__ == "__main__":
    main()
