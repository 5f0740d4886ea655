"""exec and attach: both directions of a hijacked connection, with back pressure from end to end.

aiodocker gives the connection; what it lacks, ending stdin while output goes on, is `half_close`, which reaches into
its stream object and is the one place that does (tests/conformance exercises it).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from vzkubelet import aio, errors
from vzkubelet.ports import ExecRequest, ExitStatus, Streams, TerminalSize
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine

_log = logging.getLogger(__name__)
_STDERR = 2
_DETACH_KEYS = "ctrl-@,ctrl-^,ctrl-_"
"""Docker swallows the first key of its default, Ctrl-P, which shells want; it cannot be off, only made rare."""
_STATUS_POLL_S = 0.01
_STATUS_POLL_MAX_S = 0.5
_STATUS_DEADLINE_S = 30.0
_RESIZE_TRIES = 20
_RESIZE_RETRY_S = 0.05


async def run(engine: Engine, container_id: str, request: ExecRequest, streams: Streams) -> ExitStatus:
    """Run a command in a container and return how it ended.

    Cancelling closes the connection, which ends a command that reads its stdin or writes to a terminal; Docker has no
    call to kill an exec, so another one may go on until it ends by itself or with its container.

    Raises:
        NotFound, Conflict: the container is not there or does not run.
    """
    docker = await engine.client()
    source = streams.stdin()
    with engine.translated():
        exec_ = await docker.containers.container(container_id).exec(
            list(request.argv), stdin=source is not None, tty=request.tty, detach_keys=_DETACH_KEYS
        )
        async with exec_.start() as stream:

            async def resize(size: TerminalSize) -> None:
                await exec_.resize(h=size.rows, w=size.columns)

            # Ending stdin of a terminal makes the engine end its output as well.
            await _converse(stream, streams, source, resize, tty=request.tty, half_close_stdin=not request.tty)
    return await _exit_status(engine, exec_.id)


async def attach(engine: Engine, container_id: str, tty: bool, streams: Streams) -> None:
    """Talk to a container's own process until it ends.

    Raises:
        NotFound, Conflict: the container is not there or does not run.
    """
    found = await engine.get(f"containers/{container_id}/json", objects.Container)
    if not found.state.running:
        raise errors.Conflict(f"container {container_id[:12]} is not running")
    docker = await engine.client()
    container = docker.containers.container(container_id)
    source = streams.stdin() if found.config.open_stdin else None
    with engine.translated():
        async with container.attach(
            stdin=source is not None, stdout=True, stderr=True, detach_keys=_DETACH_KEYS
        ) as stream:

            async def resize(size: TerminalSize) -> None:
                await container.resize(h=size.rows, w=size.columns)

            # The engine ends the whole session with the input unless the container's stdin is to be closed with it.
            once = found.config.stdin_once and not found.config.tty
            await _converse(stream, streams, source, resize, tty=tty, half_close_stdin=once)


def half_close(stream: Stream) -> None:
    """End stdin; output goes on. Does nothing over TLS, which has no half-closed state in asyncio."""
    response = stream._resp  # noqa: SLF001 - no public way, see the module
    transport = response.connection.transport if response and response.connection else None
    if transport is not None and transport.can_write_eof():
        transport.write_eof()


async def _converse(
    stream: Stream,
    streams: Streams,
    source: AsyncIterator[bytes] | None,
    resize: Callable[[TerminalSize], Awaitable[None]],
    *,
    tty: bool,
    half_close_stdin: bool,
) -> None:
    """Carry both directions until the output ends."""
    feeding = None if source is None else aio.spawn(_feed(stream, source, half_close_stdin), name="docker stdin")
    resizing = aio.spawn(_resize(streams, resize), name="docker resize") if tty else None
    try:
        while (message := await stream.read_out()) is not None:
            if message.stream == _STDERR and not tty:
                await streams.write_stderr(message.data)
            else:
                await streams.write_stdout(message.data)
    finally:
        await aio.cancel(feeding, resizing)


async def _feed(stream: Stream, source: AsyncIterator[bytes], half_close_stdin: bool) -> None:
    try:
        async for chunk in source:
            await stream.write_in(chunk)
        if half_close_stdin:
            half_close(stream)
    except (errors.Error, aiohttp.ClientError, OSError, RuntimeError, AssertionError) as exc:
        # The process has ended or the peer has gone: the output side sees it too and ends the session.
        # aiodocker asserts that its connection is still there.
        _log.debug("stdin of a Docker session ended: %s", exc)


async def _resize(streams: Streams, resize: Callable[[TerminalSize], Awaitable[None]]) -> None:
    sizes = streams.resizes()
    if sizes is None:
        return
    try:
        async for size in sizes:
            await _resize_when_started(size, resize)
    except errors.Error as exc:
        _log.debug("resizing of a Docker session ended: %s", exc)


async def _resize_when_started(size: TerminalSize, resize: Callable[[TerminalSize], Awaitable[None]]) -> None:
    """The engine upgrades the connection a moment before the process exists that the first size is for."""
    for _ in range(_RESIZE_TRIES):
        try:
            await resize(size)
        except (DockerError, aiohttp.ClientError, OSError) as exc:
            _log.debug("terminal not resized: %s", exc)
            await asyncio.sleep(_RESIZE_RETRY_S)
        else:
            return


async def _exit_status(engine: Engine, exec_id: str) -> ExitStatus:
    """The engine closes the streams a moment before it knows the exit code."""
    delay_s = _STATUS_POLL_S
    try:
        async with asyncio.timeout(_STATUS_DEADLINE_S):
            while True:
                found = await engine.get(f"exec/{exec_id}/json", objects.Exec)
                if not found.running and found.exit_code is not None:
                    return ExitStatus(found.exit_code & 0xFF)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _STATUS_POLL_MAX_S)
    except TimeoutError as exc:
        text = f"the command closed its output and still runs after {_STATUS_DEADLINE_S:.0f} s"
        raise errors.DeadlineExceeded(text) from exc
