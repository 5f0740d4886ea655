"""Programs that give credentials: a request on stdin, an answer on stdout, bounded in time and size.

Arguments can be read by every user of the host, so no secret is ever one; what a program prints is never logged as it
is.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, InvalidInput

OUTPUT_LIMIT_BYTES = 1 << 20
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)


async def run(command: Sequence[str], stdin: bytes, environment: Mapping[str, str], timeout_s: float) -> Finished:
    """Run a program in a process group of its own. Cancelling kills the group.

    Raises:
        InvalidInput: it cannot be started, or prints more than `OUTPUT_LIMIT_BYTES`.
        DeadlineExceeded: it, or what it started, has not ended in time.
    """
    name = command[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        raise InvalidInput(f"{name} cannot be started: {exc.strerror}") from exc
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaining = aio.spawn(_drained(process.stderr), name=f"stderr of {name}", on_crash=lambda _: None)
    try:
        async with asyncio.timeout(timeout_s):
            await _fed(process.stdin, stdin)
            stdout = await _drained(process.stdout)
            stderr = await complaining
            exit_code = await process.wait()
    except TimeoutError as exc:
        raise DeadlineExceeded(f"{name} has not answered in {timeout_s:g} s") from exc
    finally:
        # The group: what the program has started may outlive it and hold the pipes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await aio.uninterrupted(_ended(process, complaining), name=f"end of {name}")
    if len(stdout) > OUTPUT_LIMIT_BYTES:
        raise InvalidInput(f"{name} prints more than {OUTPUT_LIMIT_BYTES} bytes")
    return Finished(exit_code, stdout, stderr)


async def _ended(process: asyncio.subprocess.Process, complaining: asyncio.Task[bytes]) -> None:
    await aio.cancel(complaining)
    await process.wait()


async def _fed(pipe: asyncio.StreamWriter, content: bytes) -> None:
    """A program need not read what it is told."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(content)
        await pipe.drain()
    pipe.close()


async def _drained(pipe: asyncio.StreamReader) -> bytes:
    """To its end; of too long an output one byte more than allowed is kept."""
    kept = bytearray()
    while chunk := await pipe.read(_CHUNK_BYTES):
        kept += chunk[: OUTPUT_LIMIT_BYTES + 1 - len(kept)]
    return bytes(kept)
