"""A `server.backend.Backend` whose containers are this machine: commands run as local processes."""

import asyncio
import contextlib
import fcntl
import functools
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from vzkubelet import aio, errors
from vzkubelet.model.logs import LogEntry, LogOptions
from vzkubelet.model.pod import Pod
from vzkubelet.model.stats import NodeStats, Summary
from vzkubelet.model.timestamp import from_epoch
from vzkubelet.ports import ExecRequest, ExitStatus, Streams, TerminalSize
from vzkubelet.wire import log_lines

CHUNK_BYTES = 64 * 1024


@dataclass
class LocalBackend:
    """`log` holds entries per container; `grown` wakes followers. `running` counts commands alive."""

    known: list[Pod] = field(default_factory=list)
    log: dict[str, list[LogEntry]] = field(default_factory=dict)
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    log_error: errors.Error | None = None
    trouble: str | None = None
    running: int = 0
    followers: int = 0
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def pods(self) -> Sequence[Pod]:
        return self.known

    async def exec(
        self, namespace: str, pod: str, uid: str | None, container: str, request: ExecRequest, streams: Streams
    ) -> ExitStatus:
        self.calls.append(("exec", namespace, pod, uid, container, request.argv))
        self.running += 1
        try:
            return await (_run_in_terminal if request.tty else _run)(request.argv, streams)
        finally:
            self.running -= 1

    async def attach(self, namespace: str, pod: str, uid: str | None, container: str, streams: Streams) -> None:
        self.calls.append(("attach", namespace, pod, uid, container))
        self.running += 1
        try:
            await _run(("cat",), streams)
        finally:
            self.running -= 1

    async def logs(
        self, namespace: str, pod: str, uid: str | None, container: str, previous: bool, options: LogOptions
    ) -> AsyncIterator[LogEntry]:
        self.calls.append(("logs", namespace, pod, uid, container, previous, options))
        if self.log_error is not None:
            raise self.log_error
        self.followers += 1
        try:
            entries = self.log[container]
            for entry in log_lines.tail(log_lines.since(entries, options.since_ns), options.tail_lines):
                yield entry
            sent = len(entries)
            while options.follow:
                while sent < len(entries):
                    yield entries[sent]
                    sent += 1
                self.grown.clear()
                await self.grown.wait()
        finally:
            self.followers -= 1

    async def summary(self) -> Summary:
        return Summary(node=NodeStats(node_name="node", start_time=from_epoch(0)), pods=[])

    def healthy(self) -> str | None:
        return self.trouble


async def _run(argv: Sequence[str], streams: Streams) -> ExitStatus:
    """Plain Popen: asyncio's own process waits for the end of pipes, which does not come while nobody reads them."""
    stdin = streams.stdin()
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as exc:
        raise errors.NotFound(f"{argv[0]}: {exc.strerror}") from exc
    loop = asyncio.get_running_loop()
    transports: list[asyncio.BaseTransport] = []
    pumps: list[asyncio.Task[None]] = []
    feeder = None
    try:
        for output, write in ((process.stdout, streams.write_stdout), (process.stderr, streams.write_stderr)):
            reader = asyncio.StreamReader(CHUNK_BYTES)
            transport, _ = await loop.connect_read_pipe(functools.partial(asyncio.StreamReaderProtocol, reader), output)
            transports.append(transport)
            pumps.append(aio.spawn(_copy_out(reader, write), name="output"))
        if stdin is not None:
            input_transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
            transports.append(input_transport)
            writer = asyncio.StreamWriter(input_transport, protocol, None, loop)
            feeder = aio.spawn(_copy_in(stdin, writer), name="stdin")
        await asyncio.gather(*pumps)
        code = await asyncio.to_thread(process.wait)
        return ExitStatus(code if code >= 0 else 128 - code, max(-code, 0))
    finally:
        with contextlib.suppress(ProcessLookupError):  # with its children: one that lives on holds the output open
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        await aio.cancel(feeder, *pumps)
        for opened in transports:
            if isinstance(opened, asyncio.WriteTransport) and not opened.is_closing():
                opened.abort()
            opened.close()


async def _copy_out(reader: asyncio.StreamReader, write: Callable[[bytes], Awaitable[None]]) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        await write(chunk)


async def _copy_in(chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # the process closed its input
        async for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def _run_in_terminal(argv: Sequence[str], streams: Streams) -> ExitStatus:
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_take_terminal
        )
    finally:
        os.close(slave)
    tasks = []
    if (sizes := streams.resizes()) is not None:
        tasks.append(aio.spawn(_resize(master, sizes), name="resize"))
    if (stdin := streams.stdin()) is not None:
        tasks.append(aio.spawn(_type(master, stdin), name="typing"))
    try:
        while chunk := await _read_terminal(master):
            await streams.write_stdout(chunk)
        return ExitStatus(await process.wait() & 0xFF)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await aio.cancel(*tasks)
        await process.wait()
        os.close(master)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _read_terminal(master: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(master, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
        return os.read(master, CHUNK_BYTES)
    except OSError:  # EIO: the last process has left the terminal
        return b""
    finally:
        loop.remove_reader(master)


async def _resize(master: int, sizes: AsyncIterator[TerminalSize]) -> None:
    async for size in sizes:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


async def _type(master: int, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        os.write(master, chunk)
