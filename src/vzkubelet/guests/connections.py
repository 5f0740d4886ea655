"""Connections to one guest, shared by its sessions and made again when they are lost."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncssh

from vzkubelet import aio
from vzkubelet.errors import DeadlineExceeded, Unavailable, clip
from vzkubelet.guests.session import Session
from vzkubelet.guests.shell import READ_ALL, encode, interpreted
from vzkubelet.guests.ssh import WINDOW_BYTES, ConnectPolicy, Dialer
from vzkubelet.ports import OutputStream, TerminalSize

_log = logging.getLogger(__name__)

MAX_REPLY_BYTES = 1024 * 1024
"""Output of one of our own scripts; they answer in a few lines."""


MAX_REFUSALS = 3
"""Sessions that a reachable server may refuse in a row. Dropbear 2022 closes a new one when another ends meanwhile."""


@dataclass(eq=False, slots=True)
class _Link:
    connection: asyncssh.SSHClientConnection
    limit: int
    sessions: int = 0

    def has_room(self) -> bool:
        return self.sessions < self.limit and not self.connection.is_closed()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script of ours printed, and its exit code."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Terminal:
    type: str
    size: TerminalSize


@dataclass(slots=True)
class Connections:
    """Usually one connection; more only while it has as many sessions as servers allow."""

    dialer: Dialer
    policy: ConnectPolicy
    posix_login_shell: bool = False
    """Whether the login shell may run our scripts itself."""
    _links: list[_Link] = field(default_factory=list)
    _dialling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _abandoned: set[asyncio.Task[None]] = field(default_factory=set)
    _closed: bool = False

    async def open(self, deadline_s: float) -> None:
        """Make the first connection. Raises as `Dialer.connect`."""
        async with self._dialling:
            self._links.append(_Link(await self.dialer.connect(deadline_s), self.policy.sessions_per_connection))

    @contextlib.asynccontextmanager
    async def session(self, script: str, terminal: Terminal | None = None) -> AsyncIterator[Session]:
        """A session that runs the script in a POSIX shell; on leaving, the channel is closed, whatever still runs.

        Raises: Unavailable when the guest cannot be reached or refuses.
        """
        command = script if self.posix_login_shell else f"exec {interpreted(script)}"
        link, session = await self._start(command, terminal)
        try:
            yield session
        finally:
            await self._end(link, session)

    async def run(self, script: str, timeout_s: float = 30.0) -> Reply:
        """Run a script of ours to its end. Raises Unavailable, DeadlineExceeded."""
        parts: dict[OutputStream, bytearray] = {stream: bytearray() for stream in OutputStream}
        try:
            async with asyncio.timeout(timeout_s), self.session(READ_ALL) as session:
                await session.write(encode(script))
                session.write_eof()
                while chunk := await session.read():
                    stream, data = chunk
                    parts[stream] += data
                    if len(parts[stream]) > MAX_REPLY_BYTES:
                        raise Unavailable(f"guest {self.dialer} answers a short command with too much output")
                if session.status is None:
                    raise Unavailable(f"the connection to guest {self.dialer} was lost")
                texts = (bytes(part).decode("utf-8", "replace") for part in parts.values())
                return Reply(session.status.code, *texts)
        except TimeoutError:
            raise DeadlineExceeded(f"guest {self.dialer} did not answer a command within {timeout_s:g} s") from None

    async def close(self) -> None:
        self._closed = True
        links, self._links = self._links, []
        for link in links:
            link.connection.abort()
        for link in links:
            await link.connection.wait_closed()
        abandoned, self._abandoned = self._abandoned, set()
        await asyncio.gather(*abandoned, return_exceptions=True)

    async def _start(self, command: str, terminal: Terminal | None) -> tuple[_Link, Session]:
        """A session whose command was accepted. What a server has not accepted it has not run: it is asked again."""
        refusals = 0
        while True:
            link = await self._acquire()
            session = Session()
            creating = aio.spawn(
                _create(link.connection, session, command, terminal), name="new session", on_crash=lambda _: None
            )
            try:
                await asyncio.shield(creating)
            except asyncio.CancelledError:
                # The server may have it already: asyncssh would forget the channel, and the command would run on.
                abandoned = aio.spawn(self._abandon(creating, link, session), name="abandoned session")
                self._abandoned.add(abandoned)
                abandoned.add_done_callback(self._abandoned.discard)
                raise
            except (asyncssh.Error, OSError) as exc:
                await self._end(link, session)
                if not link.connection.is_closed():
                    refusals += 1
                    if not session.opened and link.sessions:
                        link.limit = link.sessions  # this server allows fewer at once
                elif not session.opened:
                    continue  # the connection was lost before this call
                elif terminal is None:
                    refusals += 1  # the script waits for its first line, which was never sent: nothing has run
                else:
                    refusals = MAX_REFUSALS
                if refusals >= MAX_REFUSALS:
                    reason = clip(str(exc) or type(exc).__name__)
                    raise Unavailable(f"guest {self.dialer} gave no session: {reason}") from exc
            except BaseException:
                await self._end(link, session)
                raise
            else:
                return link, session

    async def _abandon(self, creating: "asyncio.Task[None]", link: _Link, session: Session) -> None:
        await asyncio.wait({creating})
        await self._end(link, session)

    async def _end(self, link: _Link, session: Session) -> None:
        try:
            await session.end()
        finally:
            link.sessions -= 1
            if link.sessions == 0 and link in self._links[1:]:
                self._links.remove(link)
                link.connection.close()
            async with self._freed:
                self._freed.notify()

    async def _acquire(self) -> _Link:
        while True:
            if self._closed:
                raise Unavailable(f"the channel to guest {self.dialer} is closed")
            link = self._free()
            if link is None and len(self._links) < self.policy.connections:
                async with self._dialling:
                    link = self._free() or await self._add()
            if link is not None:
                link.sessions += 1
                return link
            async with self._freed:
                await self._freed.wait()

    def _free(self) -> _Link | None:
        self._links = [link for link in self._links if not link.connection.is_closed()]
        return next((link for link in self._links if link.has_room()), None)

    async def _add(self) -> _Link:
        try:
            connection = await self.dialer.connect(self.policy.reconnect_s)
        except DeadlineExceeded as exc:
            raise Unavailable(exc.message) from exc
        link = _Link(connection, self.policy.sessions_per_connection)
        if self._closed:
            connection.abort()
            raise Unavailable(f"the channel to guest {self.dialer} is closed")
        self._links.append(link)
        return link


async def _create(
    connection: asyncssh.SSHClientConnection, session: Session, command: str, terminal: Terminal | None
) -> None:
    await connection.create_session(
        lambda: session,
        command,
        encoding=None,
        window=WINDOW_BYTES,
        request_pty="force" if terminal else False,
        term_type=terminal.type if terminal else None,
        term_size=(terminal.size.columns, terminal.size.rows) if terminal else (0, 0),
    )
