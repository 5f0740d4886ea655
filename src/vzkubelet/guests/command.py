"""A command beside the container's process: streams, terminal and exit code of one exec."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from vzkubelet import aio
from vzkubelet.errors import Error, Unavailable, clip
from vzkubelet.guests import launch
from vzkubelet.guests.connections import Connections, Terminal
from vzkubelet.guests.session import Session
from vzkubelet.guests.shell import READ_LINE, interpreted, one_line, quote
from vzkubelet.guests.users import Place, User, Users
from vzkubelet.ports import ExecRequest, ExitStatus, GuestProcess, OutputStream, Streams, TerminalSize

TERM = "xterm"
"""What runtimes tell a process with a terminal when its environment does not."""

FIRST_SIZE_S = 0.1
"""How long a terminal waits for the size that clients send first; without one it has 80 columns and 24 rows."""

KILL_S = 3.0
"""How long the end of a cancelled command may take."""

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
        script = one_line(_announcing(token, program, "" if stdin else "</dev/null"))
        if user:
            script = one_line("exec " + user.switch(interpreted(READ_LINE), Place.SESSION)) + script
        async with self._connections.session(READ_LINE) as session:
            await session.write(script)
            run = _Run(session, program, token, streams, terminal=False)
            return await self._serve(run, session, stdin, user)

    async def _in_terminal(
        self, program: launch.Program, user: User | None, token: str, streams: Streams
    ) -> ExitStatus:
        """The script comes from a file: what is written to a terminal would be echoed, edited and cut by it."""
        read = 'IFS= read -r h <&3 && eval "$h"'
        # A terminal may be hung up before the shell belongs to it, which then never hears of it.
        script = one_line("[ -t 0 ]||exit 129\n" + _announcing(token, program, "3<&-"))
        if user:
            script = one_line("exec " + user.switch(interpreted(read), Place.TERMINAL)) + script
        name = f"exec-{token}"
        staged = await self._connections.run(_STAGE % (quote(script.decode("utf-8", "surrogateescape")), name, name))
        path = staged.stdout.rstrip("\n")
        if not path:
            raise Unavailable(f"the guest has no writable place for a terminal's command: {clip(staged.stderr)}")
        opened = f"exec 3<{quote(path)}; rm -f {quote(path)}; {read}"
        resizes = _Resizes(streams.resizes())
        try:
            terminal = Terminal(TERM, await resizes.first())
            async with self._connections.session(opened, terminal) as session:
                resizes.apply_to(session)
                run = _Run(session, program, token, streams, terminal=True)
                return await self._serve(run, session, streams.stdin(), user)
        finally:
            await resizes.close()

    async def _serve(
        self, run: "_Run", session: Session, stdin: AsyncIterator[bytes] | None, user: User | None
    ) -> ExitStatus:
        """Serve it; when that is cut short, nobody is left to read what the command says, so it is killed."""
        try:
            return await run.serve(stdin)
        except BaseException:
            await run.learn_pid()
            if run.pid and session.status is None:
                await self._kill(run.pid, user)
            raise

    async def _kill(self, pid: int, user: User | None) -> None:
        """Over a session of its own: OpenSSH passes no signals on for root, and closing a channel kills nobody."""
        kill = f"kill -9 -{pid} 2>/dev/null||kill -9 {pid}\n"
        if user and user.elevated:
            kill = f"sudo -n -- /bin/sh -c {quote(kill)}\n"
        with contextlib.suppress(Error):
            await self._connections.run(kill, timeout_s=KILL_S)


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


def _announcing(token: str, program: launch.Program, redirections: str) -> str:
    """A script whose first line on stderr tells whether it became the program: ``TOKEN run PID`` or ``TOKEN KIND``."""
    head = f'fail(){{ echo {token} "$*" >&2;exit 127;}};umask 022\n'
    return head + launch.script(program, redirections, announce=f"echo {token} run $$ >&2")


class _Run:
    """One command from its first line to its end."""

    def __init__(self, session: Session, program: launch.Program, token: str, streams: Streams, terminal: bool) -> None:
        self.pid = 0
        self._session = session
        self._program = program
        self._token = token.encode()
        self._streams = streams
        self._terminal = terminal
        self._head = b""

    async def serve(self, stdin: AsyncIterator[bytes] | None) -> ExitStatus:
        await self._await_start()
        feed = _feed(self._session, stdin) if stdin else None
        task = aio.spawn(feed, name="stdin of an exec", on_crash=self._session.fail) if feed else None
        try:
            while chunk := await self._session.read():
                await self._write(*chunk)
        finally:
            await aio.cancel(task)
        if self._session.status is None:
            raise Unavailable("the connection to the guest was lost while the command ran")
        return self._session.status

    async def learn_pid(self) -> None:
        """For a command that was given up before it said who it is: it may run already, and has to be killed."""
        if b"\n" not in self._head and self._session.status is None:
            with contextlib.suppress(Error, TimeoutError):
                async with asyncio.timeout(KILL_S):
                    await self._await_start()

    async def _await_start(self) -> None:
        """Take the script's own line out of the output. Raises what the line says.

        Output of the other stream may overtake the line; it waits, because until the line has come a command whose peer
        is gone cannot be killed.
        """
        overtaking: list[tuple[OutputStream, bytes]] = []
        watched = OutputStream.STDOUT if self._terminal else OutputStream.STDERR
        while b"\n" not in self._head:
            chunk = await self._session.read()
            if chunk is None:
                told = clip(self._head.decode("utf-8", "replace"))
                raise Unavailable(f"the guest could not run a command: {told}")
            if chunk[0] is watched:
                self._head += chunk[1]
            else:
                overtaking.append(chunk)
        line, _, rest = self._head.partition(b"\n")
        match line.split():
            case [self._token, b"run", pid]:
                self.pid = int(pid)
            case [self._token, *report]:
                raise launch.failure(b" ".join(report).decode("utf-8", "replace"), self._program)
            case _:
                raise Unavailable(f"the guest's shell said: {clip(self._head.decode('utf-8', 'replace'))}")
        for chunk in overtaking:
            await self._write(*chunk)
        if rest:
            await self._write(watched, rest)

    async def _write(self, stream: OutputStream, data: bytes) -> None:
        if self._terminal or stream is OutputStream.STDOUT:
            await self._streams.write_stdout(data)
        else:
            await self._streams.write_stderr(data)


async def _feed(session: Session, stdin: AsyncIterator[bytes]) -> None:
    async for data in stdin:
        try:
            await session.write(data)
        except Unavailable:
            return  # the command has ended; whoever reads its output learns how
    session.write_eof()
