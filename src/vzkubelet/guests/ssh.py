"""Making an SSH connection to a guest that may still be booting.

A try has three phases with bounds of their own, because a booting guest fails in three ways: nobody answers the
connect (no address yet), the connect succeeds and nothing follows (QEMU's user network accepts for the guest), or the
server is there and slow (first key exchange on an emulated processor).
"""

import asyncio
import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from vzkubelet.errors import DeadlineExceeded, Error, InvalidInput, Unauthenticated, Unavailable, clip
from vzkubelet.guests.host_key import RememberedKey
from vzkubelet.ports import GuestAddress

_log = logging.getLogger(__name__)

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr")
"""The fastest in OpenSSL first; aes128-ctr for servers built without the others (old dropbear)."""

WINDOW_BYTES = 2 * 1024 * 1024
"""Receive window of a session. A larger one is not faster and is what a slow reader costs at most."""

# asyncssh reports every connection and channel at INFO; here that is wire detail.
asyncssh.set_log_level(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Login:
    """How we log in to guests: a password, a private key, or both."""

    user: str
    password: str = field(default="", repr=False)
    key_path: Path | None = None
    key: bytes | None = field(default=None, repr=False)
    """Text of the key (PEM or OpenSSH), in place of a file."""
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConnectPolicy:
    """How patient connections are. The defaults suit a guest under emulation on a busy host."""

    interval_s: float = 0.15
    """Pause between two tries."""
    tcp_timeout_s: float = 0.75
    """Below the second after which a lost SYN is sent again: a new try is faster than that."""
    banner_timeout_s: float = 1.0
    """Grows by half with every try that ran into it, to at most `login_timeout_s`."""
    login_timeout_s: float = 15.0
    refused_login_s: float = 2.0
    """How long a refused login is tried again: while a guest boots, its server may know no users yet."""
    reconnect_s: float = 5.0
    """How long a call tries to make a lost connection again."""
    lost_after_s: float = 60.0
    """How long `Guest.follow` puts up with an unreachable guest."""
    keepalive_interval_s: float = 5.0
    keepalive_count: int = 4
    kex_algorithms: tuple[str, ...] | None = None
    """None = those that asyncssh finds safe."""
    sessions_per_connection: int = 8
    """OpenSSH's server allows 10 (MaxSessions), dropbear fails an assertion at about 100."""
    connections: int = 32


class _Client(asyncssh.SSHClient):
    """Accepts any host key the first time; later asyncssh compares, and asks only about another one."""

    def __init__(self, first_use: bool) -> None:
        self._first_use = first_use

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._first_use


class Dialer:
    """Connects to one guest."""

    def __init__(self, address: GuestAddress, host_key: Path, login: Login, policy: ConnectPolicy) -> None:
        self._address = address
        self._remembered = RememberedKey(host_key)
        self._login = login
        self._policy = policy

    def __str__(self) -> str:
        return f"{self._login.user}@{self._address.ssh_host}:{self._address.ssh_port}"

    async def connect(self, deadline_s: float) -> asyncssh.SSHClientConnection:
        """Try until the guest lets us in.

        Raises: DeadlineExceeded with the last reason, Unauthenticated, Conflict (another host key), InvalidInput
        (unusable private key).
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        refused_since: float | None = None
        banner_timeout_s = self._policy.banner_timeout_s
        reason: Error = DeadlineExceeded("it was not tried")
        while True:
            left_s = deadline_s - (clock() - started)
            if left_s <= 0:
                if isinstance(reason, Unauthenticated):
                    raise reason
                raise DeadlineExceeded(f"guest {self} was not reachable over SSH within {deadline_s:g} s: {reason}")
            try:
                async with asyncio.timeout(left_s):
                    return await self._try(banner_timeout_s)
            except Unauthenticated as exc:
                reason = exc
                refused_since = refused_since or clock()
                if clock() - refused_since >= self._policy.refused_login_s:
                    raise
            except DeadlineExceeded as exc:
                reason = exc
                banner_timeout_s = min(banner_timeout_s * 1.5, self._policy.login_timeout_s)
            except Unavailable as exc:
                reason = exc
            except TimeoutError:
                continue
            _log.debug("guest %s is not ready: %s", self, reason)
            await asyncio.sleep(self._policy.interval_s)

    async def _try(self, banner_timeout_s: float) -> asyncssh.SSHClientConnection:
        remembered = self._remembered.load()
        options = _options(self._login, self._policy, remembered)
        try:
            async with asyncio.timeout(self._policy.login_timeout_s):
                connection = await asyncssh.connect(
                    self._address.ssh_host,
                    self._address.ssh_port,
                    options=options,
                    sock=await self._answering_socket(banner_timeout_s),
                    client_factory=lambda: _Client(remembered is None),
                )
        except TimeoutError:
            raise DeadlineExceeded(f"its SSH login took longer than {self._policy.login_timeout_s:g} s") from None
        except asyncssh.PermissionDenied as exc:
            raise Unauthenticated(
                f"guest {self} refused the login of user {self._login.user}: check the SSH user and password or key"
            ) from exc
        except asyncssh.HostKeyNotVerifiable as exc:
            raise self._remembered.changed(str(self)) from exc
        except (asyncssh.Error, OSError) as exc:
            raise Unavailable(f"SSH failed: {clip(str(exc) or type(exc).__name__)}") from exc
        key = connection.get_server_host_key()
        if key is not None:
            self._remembered.remember(key)
        return connection

    async def _answering_socket(self, banner_timeout_s: float) -> socket.socket:
        """A connection on whose other end something has begun to speak."""
        family = socket.AF_INET6 if ":" in self._address.ssh_host else socket.AF_INET
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._await_banner(connected, banner_timeout_s)
        except OSError as exc:
            connected.close()
            raise Unavailable(f"no connection: {exc.strerror or exc}") from exc
        except BaseException:
            connected.close()
            raise
        return connected

    async def _await_banner(self, connected: socket.socket, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._policy.tcp_timeout_s):
                await loop.sock_connect(connected, (self._address.ssh_host, self._address.ssh_port))
        except TimeoutError:
            raise Unavailable("nobody answers at its address") from None
        try:
            async with asyncio.timeout(timeout_s):
                await _readable(connected)
        except TimeoutError:
            raise DeadlineExceeded(f"its SSH server said nothing for {timeout_s:.1f} s") from None
        if not connected.recv(1, socket.MSG_PEEK):
            raise Unavailable("the connection was closed before its SSH server spoke")


async def _readable(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connected, arrived)
    try:
        await ready
    finally:
        loop.remove_reader(connected)


def _options(
    login: Login, policy: ConnectPolicy, remembered: asyncssh.SSHKey | None
) -> asyncssh.SSHClientConnectionOptions:
    """Nothing of the user's own SSH set-up (configuration, keys, agent, known hosts) has a say."""
    try:
        return asyncssh.SSHClientConnectionOptions(
            username=login.user,
            password=login.password or None,
            client_keys=_keys(login) or None,
            agent_path=None,
            config=None,
            gss_host=None,
            known_hosts=([remembered] if remembered is not None else [], [], []),
            kex_algs=policy.kex_algorithms or (),
            encryption_algs=CIPHERS,
            compression_algs=None,
            keepalive_interval=policy.keepalive_interval_s,
            keepalive_count_max=policy.keepalive_count,
            login_timeout=policy.login_timeout_s,
        )
    except ValueError as exc:
        raise InvalidInput(f"SSH to guests cannot be set up so: {clip(str(exc))}") from exc


def require_key(login: Login) -> None:
    """Raises: InvalidInput when the private key, where one is given, cannot be used."""
    _keys(login)


def require_algorithms(policy: ConnectPolicy) -> None:
    """Raises: InvalidInput for a key exchange that is not known."""
    try:
        asyncssh.SSHClientConnectionOptions(config=None, agent_path=None, kex_algs=policy.kex_algorithms or ())
    except ValueError as exc:
        known = ", ".join(name.decode() for name in asyncssh.kex.get_kex_algs() if b"gss" not in name)
        raise InvalidInput(f"VZ_SSH_KEX_ALGORITHMS: {clip(str(exc))}; known are {known}") from exc


def _keys(login: Login) -> list[asyncssh.SSHKey]:
    """Raises InvalidInput for a key that cannot be read, naming where it came from and never what it is."""
    name = str(login.key_path) if login.key is None else "given in VZ_SSH_PRIVATE_KEY_BASE64"
    try:
        if login.key is not None:
            return [asyncssh.import_private_key(login.key, login.passphrase)]
        return [asyncssh.read_private_key(login.key_path, login.passphrase)] if login.key_path else []
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, OSError) as exc:
        raise InvalidInput(f"the SSH key {name} cannot be used: {clip(str(exc))}") from exc
