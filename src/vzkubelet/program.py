"""Programs that answer a request, such as those that give credentials: on stdin and stdout, bounded in time and size.

Arguments can be read by every user of the host, so no secret is ever one; what a program prints is never logged as it
is.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, InvalidInput

OUTPUT_LIMIT_BYTES = 1 << 20


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
        InvalidInput: it cannot be started, is to be told more than a pipe holds (16 KiB at least), or prints more than
            `OUTPUT_LIMIT_BYTES`.
        DeadlineExceeded: it, or what it started, has not ended in time.
    """
    name = command[0]
    # A task of its own: asyncio never comes back from a start that is cancelled half way.
    starting = aio.spawn(_started(command, stdin, environment), name=f"start {name}", on_crash=lambda _: None)
    try:
        async with asyncio.timeout(timeout_s):
            transport, outputs = await asyncio.shield(starting)
            await outputs.ended.wait()
    except TimeoutError as exc:
        raise DeadlineExceeded(f"{name} has not answered in {timeout_s:g} s") from exc
    finally:
        await aio.uninterrupted(_ended(starting), name=f"end of {name}")
    stdout, stderr = (bytes(outputs.kept[descriptor]) for descriptor in (1, 2))
    if len(stdout) > OUTPUT_LIMIT_BYTES:
        raise InvalidInput(f"{name} prints more than {OUTPUT_LIMIT_BYTES} bytes")
    return Finished(transport.get_returncode() or 0, stdout, stderr)


async def _started(
    command: Sequence[str], stdin: bytes, environment: Mapping[str, str]
) -> tuple[asyncio.SubprocessTransport, "_Outputs"]:
    """Without the streams of asyncio, whose `wait` needs somebody who reads what a killed program has printed."""
    with _pipe_with(stdin) as request:
        try:
            return await asyncio.get_running_loop().subprocess_exec(
                _Outputs,
                *command,
                env=environment,
                stdin=request,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise InvalidInput(f"{command[0]} cannot be started: {exc.strerror}") from exc


async def _ended(starting: "asyncio.Task[tuple[asyncio.SubprocessTransport, _Outputs]]") -> None:
    """End what has not ended, with its group: what the program has started may outlive it and hold the pipes."""
    try:
        transport, outputs = await starting
    except InvalidInput:
        return
    if not outputs.ended.is_set():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
    transport.close()
    await outputs.ended.wait()


@contextlib.contextmanager
def _pipe_with(content: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds all of it: nobody has to wait for a program that does not read."""
    reading, writing = os.pipe()
    try:
        try:
            os.set_blocking(writing, False)
            written = os.write(writing, content)
        finally:
            os.close(writing)
        if written != len(content):
            raise InvalidInput(f"{len(content)} bytes are more than a program is told at once")
        yield reading
    finally:
        os.close(reading)


class _Outputs(asyncio.SubprocessProtocol):
    """What a program prints; of too long an output one byte more than allowed is kept. `ended` = it has, and its pipes
    are closed."""

    def __init__(self) -> None:
        self.kept = {1: bytearray(), 2: bytearray()}
        self.ended = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.kept[fd] += data[: OUTPUT_LIMIT_BYTES + 1 - len(self.kept[fd])]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
