"""The container's process: launched once under a supervisor in the guest, followed and signalled from here.

The guest's half are `start.sh`, `supervise.sh` and `follow.sh`; the files it keeps are listed in `supervise.sh`. They
stay until the machine is discarded, because a restart of the container is a new clone of the image.
"""

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import AsyncIterator, Callable

from vzkubelet.errors import InvalidInput, NotFound, Unavailable, clip
from vzkubelet.guests import launch
from vzkubelet.guests.connections import Connections
from vzkubelet.guests.session import Session
from vzkubelet.guests.shell import READ_ALL, READ_LINE, interpreted, load, one_line, quote
from vzkubelet.guests.users import Place, Users
from vzkubelet.ports import ExitStatus, GuestProcess, OutputLog, OutputStream

_log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

LOST = ExitStatus(137, 9)
"""How a process ended whose supervisor was killed, as the kubelet reports a container that it lost track of."""

_PLACE = 'cd "$HOME/.vzkubelet/$id" 2>/dev/null||cd "/var/run/vzkubelet/$id" 2>/dev/null'

_BECOME = "<&6 >&7 2>&8 3>&- 4>&- 6<&- 7>&- 8>&-"
"""The descriptors that `supervise.sh` prepares, put where a process expects them."""

_SPEC = """fail() { echo "fail $*" >&3; echo >&4; exit 127; }
report() { echo "run $$" >&3; echo >&4; }
umask 022
"""

_SIGNAL = """%s || { echo absent; exit; }
[ -e exit ] && { echo ended; exit; }
read -r word pid <report && [ "$word" = run ] || { echo ended; exit; }
%s
"""
_KILL = 'kill -9 -"$pid" 2>/dev/null || kill -9 "$pid" 2>/dev/null'
"""All that the process started goes with it, as with a container."""
_TELL = 'kill -%d "$pid" 2>/dev/null'
"""The process alone: a shell would report children that a signal to the group killed, in the container's log."""
_AS_ROOT = "{ [ -e elevated ] && sudo -n -- /bin/sh -c %s; }"
"""What sudo started only root may signal."""

_RETRY_S = 0.25

_END_S = 0.5
"""How long a session that has sent all may take to end by itself, which servers like better than being cut off."""


class Supervisor:
    """The supervised processes of one guest."""

    def __init__(self, connections: Connections, users: Users, lost_after_s: float) -> None:
        self._connections = connections
        self._users = users
        self._lost_after_s = lost_after_s

    async def start(self, process: GuestProcess) -> None:
        """As `Guest.start`."""
        program = launch.Program(process.argv, process.env, process.working_dir or "/")
        spec = _SPEC + launch.script(program, _BECOME, announce="report", find_interpreter=True)
        user = await self._users.other(process.user)
        inner = interpreted(READ_ALL)
        command = user.switch(inner, Place.SUPERVISED) if user else inner
        values = {
            "id": _checked(process.id),
            "supervise": load("supervise.sh").replace("@COMMAND@", command),
            "spec": spec,
            "stdin": "1" if process.stdin else "",
            "owner": user.owner if user and not user.elevated else "",
            "elevated": "1" if user and user.elevated else "",
            "dir": program.working_dir,
        }
        assignments = "\n".join(f"{name}={quote(value)}" for name, value in values.items())
        reply = await self._connections.run(f"{load('start.sh')}{assignments}\nstart\n")
        outcome, _, detail = reply.stdout.strip().partition(" ")
        match outcome:
            case "run":
                return
            case "fail":
                raise launch.failure(detail, program)
            case _:
                raise Unavailable(f"the guest could not start a process: {clip(reply.stdout + reply.stderr)}")

    async def follow(self, process_id: str, log: OutputLog) -> ExitStatus:
        """As `Guest.follow`."""
        clock = asyncio.get_running_loop().time
        reached_at = clock()

        def reached() -> None:
            nonlocal reached_at
            reached_at = clock()

        while True:
            try:
                ended = await self._follow_once(_checked(process_id), log, reached)
            except Unavailable as exc:
                if clock() - reached_at > self._lost_after_s:
                    raise
                _log.debug("output of process %s is interrupted: %s", process_id, exc)
                await asyncio.sleep(_RETRY_S)
            else:
                if ended is not None:
                    return ended

    async def _follow_once(self, process_id: str, log: OutputLog, reached: Callable[[], None]) -> ExitStatus | None:
        """One session's worth of output; None when there is more to come."""
        offsets = f"out={log.received_bytes(OutputStream.STDOUT)} err={log.received_bytes(OutputStream.STDERR)}"
        async with self._connections.session(READ_LINE) as session:
            await session.write(one_line(f"id={quote(process_id)} {offsets}\n{load('follow.sh')}follow\n"))
            header = await _header(session, log)
            reached()
            match header.split():
                case ["live"]:
                    await _copy(session, log)
                    return None
                case ["exit", code, stdout_bytes, stderr_bytes]:
                    await _copy_until(session, log, int(stdout_bytes), int(stderr_bytes))
                    return _exit_status(int(code))
                case ["lost", stdout_bytes, stderr_bytes]:
                    await _copy_until(session, log, int(stdout_bytes), int(stderr_bytes))
                    _log.warning("the supervisor of process %s was killed in its guest", process_id)
                    return LOST
                case ["absent"]:
                    raise NotFound(f"the guest has no process {process_id}")
                case _:
                    raise Unavailable(f"the guest could not follow process {process_id}: {clip(header)}")

    async def signal(self, process_id: str, number: int) -> None:
        """As `Guest.signal`."""
        send = _KILL if number == signal.SIGKILL else _TELL % number
        elevated = _AS_ROOT % f'{quote("pid=$1;" + send)} sh "$pid"'
        send = f"{send} || {elevated} || echo ended"
        reply = await self._connections.run(f"id={quote(_checked(process_id))}\n" + _SIGNAL % (_PLACE, send))
        if reply.stdout:
            raise NotFound(f"process {process_id} has ended" if "ended" in reply.stdout else f"no process {process_id}")

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        """As `Guest.write_stdin`. Raises NotFound when the process has no stdin or has ended."""
        script = f"id={quote(_checked(process_id))}\n{_PLACE}&&[ -p in ]&&[ ! -e exit ]&&echo open&&exec cat >in\n"
        async with self._connections.session(READ_LINE) as session:
            await session.write(one_line(script))
            if await session.read() is None:
                raise NotFound(f"process {process_id} takes no input: it has ended or was started without stdin")
            async for chunk in chunks:
                await session.write(chunk)
            session.write_eof()
            while await session.read():
                pass


async def _header(session: Session, log: OutputLog) -> str:
    """The first line on stdout; what comes with it is appended already."""
    head = b""
    while b"\n" not in head:
        chunk = await session.read()
        if chunk is None:
            raise Unavailable("the connection was lost")
        if chunk[0] is OutputStream.STDOUT:
            head += chunk[1]
        else:
            log.append(*chunk)
    line, _, rest = head.partition(b"\n")
    if rest:
        log.append(OutputStream.STDOUT, rest)
    return line.decode("utf-8", "replace")


async def _copy(session: Session, log: OutputLog) -> None:
    while chunk := await session.read():
        log.append(*chunk)


async def _copy_until(session: Session, log: OutputLog, stdout_bytes: int, stderr_bytes: int) -> None:
    """Children that the process left behind may write for ever; what counts was there when it ended."""

    def missing_bytes() -> int:
        stdout = stdout_bytes - log.received_bytes(OutputStream.STDOUT)
        return max(stdout, 0) + max(stderr_bytes - log.received_bytes(OutputStream.STDERR), 0)

    while missing_bytes():
        chunk = await session.read()
        if chunk is None:
            break
        log.append(*chunk)
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while await session.read():
                    pass
    if missing_bytes() and session.status is None:
        raise Unavailable("the connection was lost")
    if missing_bytes():
        _log.error("%d bytes of output are no longer in the guest", missing_bytes())


def _exit_status(code: int) -> ExitStatus:
    """A shell reports death by signal n as 128 + n and cannot tell it from an exit with that code."""
    return ExitStatus(code, code - 128 if 128 < code <= 128 + 64 else 0)


def _checked(process_id: str) -> str:
    if not _ID.fullmatch(process_id):
        raise InvalidInput(f"{process_id!r} cannot be the id of a process: letters, digits, dots and dashes can")
    return process_id
