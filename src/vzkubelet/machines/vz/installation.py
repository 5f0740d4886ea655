"""Installing macOS as others see it: what to say to the process that does it, and what it says. Run with `run`.

The process (`installer`) is the signed interpreter, because installing needs the entitlement. It reads one request from
stdin and writes lines to stdout; the end of its stdin, like SIGTERM, tells it to cancel, so it never outlives us.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable

import msgspec

from vzkubelet import aio
from vzkubelet.errors import MachineFault, clip
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.protocol import Fault
from vzkubelet.machines.vz.restore_image import RestoreImage

_MODULE = "vzkubelet.machines.vz.installer"
_CANCEL_S = 90.0
"""How long a cancelled installation may take to end: the framework finishes the step that it is in."""
_MAX_LINE_BYTES = 1024 * 1024


class Describe(msgspec.Struct, tag="describe", frozen=True, kw_only=True):
    """Tell what a restore image brings; without a path, Apple's latest for this host."""

    path: str = ""


class Install(msgspec.Struct, tag="install", frozen=True, kw_only=True):
    """Install into an empty directory, which then has ``disk.img``, ``aux.img`` and ``machine-id``."""

    directory: str
    restore_image: str
    disk_size_bytes: int
    cpus: int = 0
    memory_bytes: int = 0
    """0 = what suits an installation; never less than the restore image asks for."""


Request = Describe | Install


class Described(msgspec.Struct, tag="described", frozen=True, kw_only=True):
    image: RestoreImage


class Advanced(msgspec.Struct, tag="advanced", frozen=True, kw_only=True):
    """`fraction` of the installation is done, 0 to 1."""

    fraction: float


class Installed(msgspec.Struct, tag="installed", frozen=True, kw_only=True):
    image: RestoreImage
    machine_id: bytes


class Failed(msgspec.Struct, tag="failed", frozen=True, kw_only=True):
    fault: Fault


Answer = Described | Advanced | Installed | Failed

_ANSWER: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


async def run(
    interpreter: Interpreter, request: Request, advanced: Callable[[float], None] = lambda _: None
) -> Described | Installed:
    """Do it in a process of its own and return its last answer. Cancelling it cancels the installation and waits.

    Raises: what the process reports (see `installer`), MachineFault when it dies without a word.
    """
    process = await asyncio.create_subprocess_exec(
        *interpreter.module(_MODULE),
        env=dict(interpreter.environment),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; we tell it
        limit=_MAX_LINE_BYTES,
    )
    assert process.stdin is not None
    words = aio.spawn(_last_words(process), name="errors of the process that installs macOS")
    try:
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        return await _answer(process, words, advanced)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.shield(asyncio.wait_for(process.wait(), _CANCEL_S))
        if process.returncode is None:
            process.kill()
            await process.wait()
        await aio.cancel(words)


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what it writes to stderr, all of which has to be read or it would stop."""
    assert process.stderr is not None
    tail = b""
    while data := await process.stderr.read(65536):
        tail = (tail + data)[-1000:]
    return clip(tail.decode(errors="replace")) or "silence"


async def _answer(
    process: asyncio.subprocess.Process, words: "asyncio.Task[str]", advanced: Callable[[float], None]
) -> Described | Installed:
    assert process.stdout is not None
    async for line in process.stdout:
        match _ANSWER.decode(line):
            case Advanced() as step:
                advanced(step.fraction)
            case Failed() as failed:
                raise failed.fault.error()
            case Described() | Installed() as answer:
                return answer
    status = await process.wait()
    raise MachineFault(f"the process that installs macOS ended with status {status} and no answer: {await words}")
