"""The ports `Guests` and `Guest` over SSH."""

import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vzkubelet import aio
from vzkubelet.errors import Unavailable, clip
from vzkubelet.guests.command import Command
from vzkubelet.guests.connections import Connections
from vzkubelet.guests.shell import POSIX_SHELLS
from vzkubelet.guests.ssh import ConnectPolicy, Dialer, Login
from vzkubelet.guests.supervisor import Supervisor
from vzkubelet.guests.system import system
from vzkubelet.guests.users import Users
from vzkubelet.ports import (
    ExecRequest,
    ExitStatus,
    GuestAddress,
    GuestMount,
    GuestProcess,
    GuestUsage,
    OutputLog,
    Streams,
)

_log = logging.getLogger(__name__)

_IDENTITY = re.compile(r"uid=(?P<uid>\d+)(\((?P<name>[^)]*)\))? gid=(?P<gid>\d+)")


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a guest tells about itself when it lets us in."""

    os: str
    uid: int
    gid: int
    name: str


class SshGuest:
    """One guest, reached over SSH."""

    def __init__(self, connections: Connections, facts: _Facts, password: str, clock: aio.Clock) -> None:
        self._connections = connections
        self._facts = facts
        self._password = password
        self._clock = clock
        users = Users(connections, facts.uid, facts.gid, facts.name, facts.os)
        self._supervisor = Supervisor(connections, users, connections.policy.lost_after_s)
        self._command = Command(connections, users)

    async def prepare(self, hostname: str, mounts: Sequence[GuestMount]) -> None:
        """Raises Unavailable with the guest's own text when a mount fails."""
        script = system(self._facts.os, "preparing").prepare(hostname, mounts)
        reply = await self._connections.run(self._preamble() + script)
        if reply.code or reply.stdout:
            reason = reply.stdout.removeprefix("error ") or reply.stderr
            raise Unavailable(f"the guest could not be prepared: {clip(reason)}", reason="CreateContainerError")

    async def start(self, process: GuestProcess) -> None:
        await self._supervisor.start(process)

    async def follow(self, process_id: str, log: OutputLog) -> ExitStatus:
        return await self._supervisor.follow(process_id, log)

    async def signal(self, process_id: str, signal: int) -> None:
        await self._supervisor.signal(process_id, signal)

    async def write_stdin(self, process_id: str, chunks: AsyncIterator[bytes]) -> None:
        await self._supervisor.write_stdin(process_id, chunks)

    async def exec(self, request: ExecRequest, process: GuestProcess | None, streams: Streams) -> ExitStatus:
        return await self._command.run(request, process, streams)

    async def usage(self) -> GuestUsage:
        guest = system(self._facts.os, "measuring")
        reply = await self._connections.run(guest.USAGE)
        return guest.usage(reply.stdout, self._clock.time())

    async def shut_down(self) -> None:
        await self._connections.run(self._preamble() + system(self._facts.os, "shutting down").shut_down())

    async def close(self) -> None:
        await self._connections.close()

    def _preamble(self) -> str:
        """How scripts become root: the login user is it, or sudo makes it so."""
        return system(self._facts.os, "becoming root in").become_root(self._facts.uid == 0, self._password)


class SshGuests:
    """Makes channels with one login for all guests."""

    def __init__(self, login: Login, policy: ConnectPolicy | None = None, clock: aio.Clock | None = None) -> None:
        self._login = login
        self._policy = policy or ConnectPolicy()
        self._clock = clock or aio.SystemClock()

    async def connect(self, address: GuestAddress, host_key: Path, deadline_s: float) -> SshGuest:
        dialer = Dialer(address, host_key, self._login, self._policy)
        connections = Connections(dialer, self._policy)
        with aio.traced(_log, "ssh connect", guest=str(dialer)):
            try:
                await connections.open(deadline_s)
                return SshGuest(connections, await _facts(connections), self._login.password, self._clock)
            except BaseException:
                await connections.close()
                raise


async def _facts(connections: Connections) -> _Facts:
    """Ask once; the first session also proves that the guest takes sessions at all."""
    reply = await connections.run('id;echo "${SHELL##*/}";uname -s\n')
    found = _IDENTITY.match(reply.stdout)
    if found is None:
        raise Unavailable(f"guest {connections.dialer} has no POSIX shell for us: {clip(reply.stdout + reply.stderr)}")
    uid = int(found["uid"])
    shell, os = reply.stdout.splitlines()[-2:]
    connections.posix_login_shell = shell in POSIX_SHELLS
    return _Facts(os, uid, int(found["gid"]), found["name"] or str(uid))
