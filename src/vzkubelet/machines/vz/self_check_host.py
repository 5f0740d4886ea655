"""Tries what the product does with processes, sockets and files on this host, each in the way it is done on a Mac.

Before the frameworks are loaded: it starts processes.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vzkubelet import aio, config
from vzkubelet.files import reflink
from vzkubelet.machines import process
from vzkubelet.machines.directory import listen, reachable_socket_path
from vzkubelet.machines.process import OWNER, ROLE, Launch, OwnedProcess, ProcessRef
from vzkubelet.machines.vz.packet_filter import frame_sockets
from vzkubelet.machines.vz.self_check_report import Check, State

HOST_STAGE = "host"

_ROLE = "self-check"
_TRIAL_S = 15.0
_POLL_S = 0.01
_STARTING_S = 2.0
_TICK_S = 0.02
"""After that a change has another time, however coarse the clock of the file system is."""
_LONG_NAME = "as-deep-as-the-directory-of-a-machine-below-the-library-of-somebody-with-a-long-name"
_BYTES = b"self-check"
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""None on all but a Mac."""
_WAITS = "import sys; sys.stdin.read(); sys.exit(7)"
_ENDS = "raise SystemExit(3)"


class _Found(Exception):
    """What was found instead."""


class _Different(_Found):
    """The product goes on without."""


class _Skipped(Exception):
    """Why it was not tried."""


async def try_host(executable: str) -> list[Check]:
    """`executable` is the interpreter that helpers run in. A failure of one trial stops no other."""
    return [await _tried(trial, executable) for trial in _TRIALS]


async def _tried(trial: "_Trial", executable: str) -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix="vz-self-check-") as path:
            async with asyncio.timeout(_TRIAL_S):
                await trial.run(Path(path).resolve(), executable)
    except _Skipped as exc:
        return Check(HOST_STAGE, trial.name, State.SKIPPED, "", str(exc))
    except TimeoutError:
        return Check(HOST_STAGE, trial.name, State.FAILED, trial.expected, f"nothing within {_TRIAL_S:.0f} s")
    except _Found as exc:
        state = State.DIFFERENT if isinstance(exc, _Different) else State.FAILED
        return Check(HOST_STAGE, trial.name, state, trial.expected, str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        return Check(HOST_STAGE, trial.name, State.FAILED, trial.expected, repr(exc))
    return Check(HOST_STAGE, trial.name, State.OK)


# --- Processes -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _child(directory: Path, executable: str, program: str) -> Iterator[tuple[ProcessRef, BinaryIO]]:
    """A process that is marked and started as a helper is, and its standard input."""
    marks = ["-X", f"{OWNER}={directory}", "-X", f"{ROLE}={_ROLE}"]
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stdin:
        try:
            ref = process.launch(
                Launch(
                    argv=[executable, "-P", *marks, "-c", program],
                    owner=directory,
                    role=_ROLE,
                    cwd=directory,
                    log=directory / "child.log",
                    stdin=reading,
                    environment=config.helper_environment(),
                )
            )
        finally:
            os.close(reading)
        try:
            yield ref, stdin
        finally:
            process.send_signal(ref, signal.SIGKILL)


async def _is_found(directory: Path, executable: str) -> None:
    with _child(directory, executable, _WAITS) as (ref, _):
        found = process.owned(directory)
        until = asyncio.get_running_loop().time() + _STARTING_S
        while not found and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_S)  # the kernel shows no environment until it has laid out the new program
            found = process.owned(directory)
        if found != [OwnedProcess(ref, str(directory), _ROLE)]:
            raise _Found(str(found) if found else "none")
        await process.kill([ref])
        if process.owned(directory):
            raise _Found("it is there still after it was killed")


async def _is_measured(directory: Path, executable: str) -> None:
    with _child(directory, executable, _WAITS) as (ref, _):
        found = process.resident_bytes(ref)
        await process.kill([ref])
    if found <= 0:
        raise _Found(f"{found} bytes")


async def _end_is_heard(directory: Path, executable: str) -> None:
    """The watch begins while the process runs (kqueue on a Mac)."""
    with _child(directory, executable, _WAITS) as (ref, stdin):
        ended = aio.spawn(process.exit_of(ref), name="hear a process end")
        try:
            await asyncio.sleep(0)
            if ended.done():
                raise _Found("an end while it runs")
            stdin.close()
            _expect(await ended, 7)
        finally:
            await aio.cancel(ended)


async def _end_is_known(directory: Path, executable: str) -> None:
    """The process has ended before anybody watches."""
    with _child(directory, executable, _ENDS) as (ref, _):
        while process.is_alive(ref):  # noqa: ASYNC110 - a watch is what it is to do without
            await asyncio.sleep(_POLL_S)
        _expect(await process.exit_of(ref), 3)


def _expect(status: int | None, wanted: int) -> None:
    if status != wanted:
        raise _Found("no status" if status is None else f"status {status}")


# --- Sockets ---------------------------------------------------------------------------------------------------------


async def _long_path(directory: Path, _: str) -> None:
    """Longer than a socket address, as below the default cache directory of a Mac."""
    deep = directory / _LONG_NAME
    deep.mkdir()
    path = deep / "helper.sock"
    with listen(path) as server, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        for one in (server, client):
            one.settimeout(_TRIAL_S / 2)
        with reachable_socket_path(path) as name:
            client.connect(name)
        accepted, _address = server.accept()
        with accepted:
            client.sendall(_BYTES)
            _same(accepted.recv(64))


async def _passed_descriptor(directory: Path, _: str) -> None:
    """SCM_RIGHTS with the first byte of a message, as the reply to a vsock connection carries it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    reading, writing = os.pipe()
    with ours, theirs, os.fdopen(reading, "rb") as output:
        for one in (ours, theirs):
            one.settimeout(_TRIAL_S / 2)
        try:
            socket.send_fds(ours, [b"{}\n"], [writing])
        finally:
            os.close(writing)
        _data, descriptors, _flags, _address = socket.recv_fds(theirs, 64, 4)
        if len(descriptors) != 1:
            raise _Found(f"{len(descriptors)} descriptors")
        with os.fdopen(descriptors[0], "wb") as passed:
            passed.write(_BYTES)
        _same(output.read())


async def _frames(directory: Path, _: str) -> None:
    """The buffers that the framework asks for, which kern.ipc.maxsockbuf bounds."""
    ours, theirs = frame_sockets()
    with ours, theirs:
        frame = bytes(1514)
        ours.settimeout(_TRIAL_S / 2)
        theirs.send(frame)
        if (received := len(ours.recv(65536))) != len(frame):
            raise _Found(f"{received} of {len(frame)} bytes")


def _same(data: bytes) -> None:
    if data != _BYTES:
        raise _Found(f"{data[:64]!r}")


# --- Files -----------------------------------------------------------------------------------------------------------


async def _clone(directory: Path, _: str) -> None:
    source, target = directory / "source.img", directory / "clone.img"
    source.write_bytes(_BYTES * 10_000)
    if not reflink(source, target):
        if _FULL_SYNC is None:
            raise _Skipped("this file system has no reflinks, and needs none: this is no Mac")
        raise _Found("none: is this APFS?")
    with source.open("r+b") as file:
        file.write(b"other")
    if target.read_bytes() != _BYTES * 10_000:
        raise _Found("a clone that changes with its source")


async def _untouched(directory: Path, _: str) -> None:
    """By its change time a stored image is known to be the file that was verified."""
    source = directory / "source.img"
    source.write_bytes(_BYTES * 10_000)
    source.chmod(0o444)
    before = source.stat().st_ctime_ns
    for number in range(2):
        await asyncio.sleep(_TICK_S)
        if not reflink(source, directory / f"clone-{number}.img"):
            raise _Skipped("this file system has no reflinks")
        source.read_bytes()
    if source.stat().st_ctime_ns != before:
        raise _Different("another one; images are read in full before each start")


async def _directory_lock(directory: Path, _: str) -> None:
    """flock(2), by which an image is not removed while a machine is made of it."""
    descriptors = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2)]
    try:
        fcntl.flock(descriptors[0], fcntl.LOCK_SH)
        try:
            fcntl.flock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise _Found("none: the second one had it, too")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def _full_sync(directory: Path, _: str) -> None:
    if _FULL_SYNC is None:
        raise _Skipped("only a Mac has it")
    file = directory / "state.json"
    file.write_bytes(_BYTES)
    for path in (file, directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError as exc:
            what = "a file" if path == file else "a directory"
            raise _Different(f"{exc.strerror} for {what}; fsync is used instead") from exc
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    expected: str
    run: Callable[[Path, str], Awaitable[None]]


_TRIALS = (
    _Trial("a marked process in the helpers' interpreter is found", "that process", _is_found),
    _Trial("its memory is told", "some", _is_measured),
    _Trial("the end of a process is heard", "status 7", _end_is_heard),
    _Trial("an end that nobody watched is known", "status 3", _end_is_known),
    _Trial("a socket with a path of more than 104 bytes", "a connection", _long_path),
    _Trial("a descriptor is passed over a socket", "one descriptor", _passed_descriptor),
    _Trial("sockets for Ethernet frames", "large buffers", _frames),
    _Trial("clonefile", "a clone", _clone),
    _Trial("a clone leaves the change time of its source", "the same time", _untouched),
    _Trial("a lock on a directory", "a lock", _directory_lock),
    _Trial("F_FULLFSYNC of a file and its directory", "no error", _full_sync),
)
