"""exec and attach: both directions of a hijacked connection, with back pressure from end to end.

aiodocker gives the connection; what it lacks, ending stdin while output goes on, is `half_close`, which reaches into
its stream object by way of `_transport` (tests/conformance exercises both).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.stream import Message, Stream

from vzkubelet import aio, errors
from vzkubelet.ports import ExecRequest, ExitStatus, Streams, TerminalSize
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine, filters, lines

_log = logging.getLogger(__name__)
_STDERR = 2
_DETACH_KEYS = "ctrl-@,ctrl-^,ctrl-_"
"""Docker swallows the first key of its default, Ctrl-P, which shells want; it cannot be off, only made rare."""
_QUIET_S = 1.0
"""Output that a dead command left in the engine's pipes comes within this."""
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
        async with _death_watch(engine, container_id, exec_.id, source) as died, exec_.start() as stream:

            async def resize(size: TerminalSize) -> None:
                await exec_.resize(h=size.rows, w=size.columns)

            # Ending stdin of a terminal makes the engine end its output as well.
            await _converse(
                stream, streams, source, resize, tty=request.tty, half_close_stdin=not request.tty, died=died
            )
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
    transport = _transport(stream)
    if transport is not None and transport.can_write_eof():
        transport.write_eof()


def _drop_unsent(stream: Stream) -> None:
    """Forget input that nobody reads any more: closing alone would wait for its reader for ever."""
    transport = _transport(stream)
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


def _transport(stream: Stream) -> asyncio.WriteTransport | None:
    response = stream._resp  # noqa: SLF001 - no public way, see the module
    connection = None if response is None else response.connection
    transport = None if connection is None else connection.transport
    return transport if isinstance(transport, asyncio.WriteTransport) else None


async def _converse(
    stream: Stream,
    streams: Streams,
    source: AsyncIterator[bytes] | None,
    resize: Callable[[TerminalSize], Awaitable[None]],
    *,
    tty: bool,
    half_close_stdin: bool,
    died: asyncio.Event | None = None,
) -> None:
    """Carry both directions until the output ends, or has been quiet for a moment after the process died."""
    feeding = None if source is None else aio.spawn(_feed(stream, source, half_close_stdin), name="docker stdin")
    resizing = aio.spawn(_resize(streams, resize), name="docker resize") if tty else None
    try:
        while (message := await _next_output(stream, died)) is not None:
            if message.stream == _STDERR and not tty:
                await streams.write_stderr(message.data)
            else:
                await streams.write_stdout(message.data)
    finally:
        await aio.cancel(feeding, resizing)
        _drop_unsent(stream)


async def _next_output(stream: Stream, died: asyncio.Event | None) -> Message | None:
    """The next piece of output; None at its end."""
    if died is None:
        return await stream.read_out()
    reading = aio.spawn(stream.read_out(), name="docker output", on_crash=lambda _: None)  # raised by result() below
    dying = aio.spawn(died.wait(), name="docker death")
    try:
        await asyncio.wait({reading, dying}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({reading}, timeout=_QUIET_S)
        return reading.result() if reading.done() else None
    finally:
        await aio.cancel(reading, dying)


@contextlib.asynccontextmanager
async def _death_watch(
    engine: Engine, container_id: str, exec_id: str, source: AsyncIterator[bytes] | None
) -> AsyncIterator[asyncio.Event | None]:
    """Set when the command has ended; None for one without stdin, whose output ends with it.

    The engine does not end the output of a command that ended without reading all of its input.
    """
    if source is None:
        yield None
        return
    wanted = filters(type=["container"], event=["exec_die"], container=[container_id])
    died = asyncio.Event()
    async with engine.response("GET", "events", params={"filters": wanted}) as response:

        async def watch() -> None:
            with contextlib.suppress(aiohttp.ClientError, OSError):  # the session's own stream breaks too
                async for line in lines(response.content.iter_any()):
                    if exec_id.encode() in line:
                        died.set()
                        return

        watching = aio.spawn(watch(), name="docker exec watch")
        try:
            yield died
        finally:
            await aio.cancel(watching)


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
