"""One exec or attach: the shell around `wire.remote_command` on an upgraded connection.

It feeds and writes, holds the input that the command has not taken, keeps the time, and ends things in the right order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, assert_never

from vzkubelet import aio, errors
from vzkubelet.ports import Streams, TerminalSize
from vzkubelet.server.upgrade import UpgradedConnection
from vzkubelet.wire import remote_command, streams
from vzkubelet.wire.remote_command import Failed, Outcome

_log = logging.getLogger(__name__)

CREATION_TIMEOUT_S: Final = 30.0
"""For the client to open all its channels (kubelet: DefaultStreamCreationTimeout)."""
IDLE_TIMEOUT_S: Final = 4 * 3600.0
"""Without a byte in or out (kubelet: streamingConnectionIdleTimeout)."""
LINGER_IDLE_S: Final = 60.0
"""After the outcome: how long a client may stay silent before it is left. Clients ping every 5 s while they read on."""
LINGER_MAX_S: Final = 3600.0
"""After the outcome, whatever the client does: what TCP still holds has been read at 10 KB/s by then."""
SHUTDOWN_LINGER_S: Final = 2.0
"""After the outcome when the server stops."""
STDIN_HIGH_BYTES: Final = 256 * 1024
"""Input held for a command that does not take it; then the connection is not read until half of it is taken."""
FIRST_SIZE_WAIT_S: Final = 0.5
"""How long input waits for the terminal's first size, which a client need not send."""
PEER_CHECK_S: Final = 5.0
"""How often a connection that is not being read is checked for a client that has gone."""
WRITE_BYTES: Final = 64 * 1024

Work = Callable[[Streams], Awaitable[Outcome]]


class RemoteSession:
    """Runs one command with the client as its `ports.Streams`."""

    def __init__(
        self,
        connection: UpgradedConnection,
        multiplexed: streams.Connection,
        options: remote_command.Options,
        protocol: remote_command.Protocol,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._options = options
        self._session = remote_command.Session(multiplexed, options, protocol)
        self._stdin: deque[bytes] = deque()
        self._stdin_bytes = 0
        self._stdin_ended = False
        self._stdin_changed = asyncio.Event()
        self._size: TerminalSize | None = None
        self._size_changed = asyncio.Event()
        self._sized = asyncio.Event()
        self._started = asyncio.Event()
        self._over = asyncio.Event()
        self._over_because = ""
        self._client_gone = asyncio.Event()
        self._stopping = False
        self._last_activity = self._loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._peer_timer: asyncio.TimerHandle | None = None

    # --- Life ---

    async def run(self, work: Work) -> None:
        """From the first channel to the closed connection. `work` is cancelled when the client leaves."""
        self._check_idle()
        try:
            self._take_events()
            self._connection.start(self._receive, self._lose)
            outcome = await self._outcome(work)
            _log.debug("> %s%s", outcome, " to nobody" if self._client_gone.is_set() else "")
            if not self._client_gone.is_set():
                self._session.finish(outcome)
                self._flush()
                await self._linger()
                self._session.go_away()
                self._flush()
        finally:
            for timer in (self._idle_timer, self._peer_timer):
                if timer is not None:
                    timer.cancel()
            await self._connection.close()

    def stop(self, reason: str) -> None:
        """End the session from outside: the command is cancelled and the client is told why."""
        self._stopping = True
        self._end(reason)
        self._loop.call_later(SHUTDOWN_LINGER_S, self._client_gone.set)

    async def _outcome(self, work: Work) -> Outcome:
        try:
            async with asyncio.timeout(CREATION_TIMEOUT_S):
                await self._started.wait()
        except TimeoutError:
            missing = ", ".join(self._session.missing_channels)
            return Failed(f"timed out waiting for client to create streams: {missing} missing")
        if self._over.is_set():
            return Failed(self._over_because)
        task = aio.spawn(_guarded(work, self), name="remote command")
        over = aio.spawn(self._over.wait(), name="remote command watch")
        try:
            await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else Failed(self._over_because)
        finally:
            await aio.cancel(task, over)

    async def _linger(self) -> None:
        """Read on until the client has closed: closing with its input unread would drop what it has not read yet."""
        self._stdin.clear()
        self._stdin_bytes = 0
        self._resume_reading()
        end = self._loop.time() + LINGER_MAX_S
        while not self._client_gone.is_set() and self._session.ready:
            left = min(end, self._last_activity + LINGER_IDLE_S) - self._loop.time()
            if left <= 0:
                _log.info("closing a finished stream connection that its client keeps open")
                return
            try:
                async with asyncio.timeout(left):
                    await self._client_gone.wait()
            except TimeoutError:
                continue

    def _end(self, reason: str) -> None:
        if not self._over.is_set():
            self._over_because = reason
            self._over.set()
            self._started.set()

    def _check_idle(self) -> None:
        left = self._last_activity + IDLE_TIMEOUT_S - self._loop.time()
        if left <= 0:
            self._end(f"nothing was sent or received for {IDLE_TIMEOUT_S:.0f} s")
        else:
            self._idle_timer = self._loop.call_later(left, self._check_idle)

    # --- The connection ---

    def _receive(self, data: bytes) -> None:
        self._last_activity = self._loop.time()
        try:
            self._session.receive_data(data)
        except errors.RemoteProtocolError as exc:
            _log.warning("dropping a stream connection: %s", exc)
            self._flush()
            self._leave(f"the client broke the protocol: {exc}")
            return
        self._take_events()

    def _take_events(self) -> None:
        for event in self._session.events():
            self._handle(event)
        self._flush()

    def _handle(self, event: remote_command.Event) -> None:
        match event:
            case remote_command.Ready():
                self._started.set()
            case remote_command.StdinReceived(data):
                self._stdin.append(data)
                self._stdin_bytes += len(data)
                self._stdin_changed.set()
                if self._stdin_bytes >= STDIN_HIGH_BYTES:
                    self._pause_reading()
            case remote_command.StdinEnded():
                self._stdin_ended = True
                self._stdin_changed.set()
            case remote_command.Resized(columns, rows):
                self._size = TerminalSize(columns, rows)
                self._size_changed.set()
                self._sized.set()
            case remote_command.PeerLeft(reason):
                self._leave(reason)
            case _:
                assert_never(event)

    def _lose(self) -> None:
        self._leave("the client closed the connection")

    def _leave(self, reason: str) -> None:
        self._client_gone.set()
        self._end(reason)

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data:
            self._last_activity = self._loop.time()
            self._connection.write(data)

    def _pause_reading(self) -> None:
        if self._peer_timer is None:
            self._connection.pause_reading()
            self._peer_timer = self._loop.call_later(PEER_CHECK_S, self._check_peer)

    def _resume_reading(self) -> None:
        if self._peer_timer is not None:
            self._peer_timer.cancel()
            self._peer_timer = None
            self._connection.resume_reading()

    def _check_peer(self) -> None:
        """A connection that is not read does not tell that its client has gone; the command would hang on for ever.

        The client's FIN may be stuck behind input that we do not read: then its kernel answers the ping with a reset.
        """
        if self._connection.peer_has_closed():
            self._leave("the client closed the connection")
        else:
            self._session.ping()
            self._connection.write(self._session.data_to_send())  # no sign of life, hence no `_flush`
            self._peer_timer = self._loop.call_later(PEER_CHECK_S, self._check_peer)

    # --- ports.Streams ---

    def stdin(self) -> AsyncIterator[bytes] | None:
        return self._stdin_chunks() if self._options.stdin else None

    def resizes(self) -> AsyncIterator[TerminalSize] | None:
        return self._sizes() if self._options.tty else None

    async def write_stdout(self, data: bytes) -> None:
        await self._write(self._session.write_stdout, data)

    async def write_stderr(self, data: bytes) -> None:
        await self._write(self._session.write_stderr, data)

    async def _write(self, put: Callable[[bytes], None], data: bytes) -> None:
        for start in range(0, len(data), WRITE_BYTES):
            if self._client_gone.is_set():
                raise errors.Unavailable("the client of this stream has gone")
            put(data[start : start + WRITE_BYTES])
            self._flush()
            await self._connection.drain()

    async def _stdin_chunks(self) -> AsyncIterator[bytes]:
        """Ends only with the client's own end of file: one that left is no reason to let `cat > file` succeed."""
        if self._options.tty and not self._sized.is_set():
            try:
                async with asyncio.timeout(FIRST_SIZE_WAIT_S):
                    await self._sized.wait()
            except TimeoutError:
                _log.debug("= no terminal size from the client")
        while True:
            while self._stdin:
                chunk = self._stdin.popleft()
                self._stdin_bytes -= len(chunk)
                if self._stdin_bytes <= STDIN_HIGH_BYTES // 2:
                    self._resume_reading()
                yield chunk
            if self._stdin_ended:
                return
            self._stdin_changed.clear()
            await self._stdin_changed.wait()

    async def _sizes(self) -> AsyncIterator[TerminalSize]:
        """The newest size whenever it has changed; those in between are of no use."""
        while True:
            await self._size_changed.wait()
            self._size_changed.clear()
            if self._size is not None:
                yield self._size


async def _guarded(work: Work, session: Streams) -> Outcome:
    try:
        return await work(session)
    except errors.Error as exc:
        return Failed(str(exc))
    except Exception:  # noqa: BLE001 - the guard of a task that foreign code runs in
        _log.exception("a remote command failed in the agent itself")
        return Failed("the node agent failed; its log says why")
