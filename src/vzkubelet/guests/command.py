"""A command beside the container's process: streams, terminal and exit code of one exec."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from vzkubelet import aio
from vzkubelet.errors import Unavailable, clip
from vzkubelet.guests import launch
from vzkubelet.guests.connections import Connections, Terminal
from vzkubelet.guests.session import Session
from vzkubelet.guests.shell import READ_LINE, one_line, quote
from vzkubelet.guests.users import User, Users
from vzkubelet.ports import ExecRequest, ExitStatus, GuestProcess, OutputStream, Streams, TerminalSize

TERM = "xterm"
"""What runtimes tell a process with a terminal when its environment does not."""

FIRST_SIZE_S = 0.1
"""How long a terminal waits for the size that clients send first; without one it has 80 columns and 24 rows."""

_STAGE = """umask 077
for root in "$HOME/.vzkubelet" /var/run/vzkubelet; do
mkdir -p "$root" 2>/dev/null && printf %%s %s >"$root/%s" && echo "$root/%s" && exit
done
"""


class Command:
    """Runs commands in one guest."""

    def __init__(self, connections: Connections, users: Users) -> None:
        self._connections = connections
        self._users = users

    async def run(self, request: ExecRequest, process: GuestProcess | None, streams: Streams) -> ExitStatus:
        """As `Guest.exec`. Cancelling it kills the command. Raises NotFound and Forbidden with the runtime's text when
        the command cannot be executed, and what the streams raise."""
        program = _program(request, process)
        user = await self._users.other(process.user) if process else None
        token = secrets.token_hex(16)
        if request.tty:
            return await self._in_terminal(program, user, token, streams)
        stdin = streams.stdin()
        text = _fail(token) + launch.script(program, "" if stdin else "</dev/null")
        script = one_line(text)
        if user:
            script = one_line("exec " + user.switch(READ_LINE.removeprefix("exec "))) + script
        async with self._connections.session(READ_LINE) as session:
            await session.write(script)
            return await _serve(session, program, token, streams, stdin, terminal=False)

    async def _in_terminal(
        self, program: launch.Program, user: User | None, token: str, streams: Streams
    ) -> ExitStatus:
        """The script comes from a file: what is written to a terminal would be echoed, edited and cut by it."""
        text = _fail(token) + launch.script(program, "3<&-")
        read = 'IFS= read -r h <&3 && eval "$h"'
        script = one_line(text)
        if user:
            script = one_line("exec " + user.switch(f"/bin/sh -c {quote(read)}")) + script
        name = f"exec-{token}"
        staged = await self._connections.run(_STAGE % (quote(script.decode("utf-8", "surrogateescape")), name, name))
        path = staged.stdout.rstrip("\n")
        if not path:
            raise Unavailable(f"the guest has no writable place for a terminal's command: {clip(staged.stderr)}")
        opened = f"exec 3<{quote(path)}; rm -f {quote(path)}; {read}"
        resizes = _Resizes(streams.resizes())
        try:
            terminal = Terminal(TERM, await resizes.first())
            async with self._connections.session(f"exec /bin/sh -c {quote(opened)}", terminal) as session:
                resizes.apply_to(session)
                return await _serve(session, program, token, streams, streams.stdin(), terminal=True)
        finally:
            await resizes.close()


class _Resizes:
    """The terminal's latest size: the first one opens the terminal, later ones change it."""

    def __init__(self, sizes: AsyncIterator[TerminalSize] | None) -> None:
        self._latest = TerminalSize(80, 24)
        self._opened_with = self._latest
        self._session: Session | None = None
        self._arrived = asyncio.Event()
        self._task = aio.spawn(self._pump(sizes), name="terminal sizes of an exec") if sizes else None

    async def _pump(self, sizes: AsyncIterator[TerminalSize]) -> None:
        async for size in sizes:
            self._latest = size
            self._arrived.set()
            if self._session is not None:
                self._session.resize(size)

    async def first(self) -> TerminalSize:
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), FIRST_SIZE_S)
        self._opened_with = self._latest
        return self._latest

    def apply_to(self, session: Session) -> None:
        self._session = session
        if self._latest != self._opened_with:
            session.resize(self._latest)

    async def close(self) -> None:
        await aio.cancel(self._task)


def _program(request: ExecRequest, process: GuestProcess | None) -> launch.Program:
    if process is None:
        return launch.Program(request.argv, None)
    env = process.env
    if request.tty and "TERM" not in dict(env):
        env = (*env, ("TERM", TERM))
    return launch.Program(request.argv, env, process.working_dir or "/")


def _fail(token: str) -> str:
    """The shell's way to say that it could not become the command: a line that nothing else can begin with."""
    return f'fail(){{ echo {token} "$*" >&2;exit 127;}};umask 022\n'


async def _serve(
    session: Session,
    program: launch.Program,
    token: str,
    streams: Streams,
    stdin: AsyncIterator[bytes] | None,
    *,
    terminal: bool,
) -> ExitStatus:
    feed = aio.spawn(_feed(session, stdin), name="stdin of an exec", on_crash=session.fail) if stdin else None
    try:
        await _relay(session, program, token.encode() + b" ", streams, terminal)
    except BaseException:
        session.kill()
        raise
    finally:
        await aio.cancel(feed)
    if session.status is None:
        raise Unavailable("the connection to the guest was lost while the command ran")
    return session.status


async def _feed(session: Session, stdin: AsyncIterator[bytes]) -> None:
    async for data in stdin:
        try:
            await session.write(data)
        except Unavailable:
            return  # the command has ended; whoever reads its output learns how
    session.write_eof()


async def _relay(session: Session, program: launch.Program, marker: bytes, streams: Streams, terminal: bool) -> None:
    """Copy output to the peer. Output that begins with `marker` is the report that there is no command."""
    watched = OutputStream.STDOUT if terminal else OutputStream.STDERR
    head: bytes | None = b""
    while chunk := await session.read():
        stream, data = chunk
        if head is not None and stream is watched:
            head += data
            if head.startswith(marker) or marker.startswith(head):
                continue
            data, head = head, None
        await _write(streams, stream, data, terminal)
    if head and head.startswith(marker):
        raise launch.failure(head.removeprefix(marker).decode("utf-8", "replace"), program)
    if head:
        await _write(streams, watched, head, terminal)


async def _write(streams: Streams, stream: OutputStream, data: bytes, terminal: bool) -> None:
    if terminal or stream is OutputStream.STDOUT:
        await streams.write_stdout(data)
    else:
        await streams.write_stderr(data)
