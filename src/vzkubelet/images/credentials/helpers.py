"""Docker's credential helpers: programs ``docker-credential-<name>`` that keep logins in a key store.

Protocol: docker/docker-credential-helpers, ``credentials/credentials.go`` and ``client/client.go``. The verb is the one
argument; a server's address or a login goes over stdin; errors come on stdout.
"""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from vzkubelet import program
from vzkubelet.errors import InvalidInput, NotFound, Unavailable, clip
from vzkubelet.model.docker_config import RegistryCredential

TIMEOUT_S = 30.0
"""A key store may wait for its owner to unlock it; a daemon has none."""
_PREFIX = "docker-credential-"
_TOKEN_USER = "<token>"  # noqa: S105 - the mark for "the secret is an identity token"
_UNKNOWN = ("credentials not found", "no credentials server url", "no credentials username")
"""What helpers print for a server that they have no login for."""

Run = Callable[[Sequence[str], bytes, Mapping[str, str], float], Awaitable[program.Finished]]


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    username: str = ""
    secret: str = ""


class Helper:
    """One helper. Every call raises:

    - InvalidInput: there is no such program, or it does not keep to the protocol.
    - Unavailable: it fails. DeadlineExceeded: it takes longer than `TIMEOUT_S`.
    """

    def __init__(self, name: str, environment: Mapping[str, str], run: Run = program.run) -> None:
        self._name = name
        self.name = _PREFIX + name
        self._environment = environment
        self._run = run

    async def get(self, server: str) -> RegistryCredential | None:
        """The login for a server; None when the helper has none."""
        try:
            output = await self._ask("get", server.encode())
        except NotFound:
            return None
        try:
            answer = msgspec.json.decode(output, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The cause is dropped on purpose: its text may quote the secret.
            raise InvalidInput(f"{self.name} get: the answer is no credential") from None
        if answer.username == _TOKEN_USER:
            return RegistryCredential(identity_token=answer.secret)
        return RegistryCredential(answer.username, answer.secret) if answer.secret else None

    async def store(self, server: str, login: RegistryCredential) -> None:
        username, secret = login.username, login.password
        if login.identity_token:
            username, secret = _TOKEN_USER, login.identity_token
        await self._ask("store", msgspec.json.encode({"ServerURL": server, "Username": username, "Secret": secret}))

    async def erase(self, server: str) -> None:
        """Forget a login; one that is not there is no error."""
        try:
            await self._ask("erase", server.encode())
        except NotFound:
            return

    async def _ask(self, verb: str, content: bytes) -> bytes:
        if os.sep in self._name:
            raise InvalidInput(f"credential helper {clip(self._name)}: a name is wanted, not a path")
        path = shutil.which(self.name, path=self._environment.get("PATH"))
        if path is None:
            raise InvalidInput(f"{clip(self.name)} is not in PATH: install it, or remove it from config.json")
        finished = await self._run([path, verb], content, self._environment, TIMEOUT_S)
        if finished.exit_code == 0:
            return finished.stdout
        complaint = _complaint(finished)
        if any(mark in complaint.lower() for mark in _UNKNOWN):
            raise NotFound(f"{self.name} {verb}: {complaint}")
        raise Unavailable(f"{self.name} {verb} failed with exit code {finished.exit_code}: {complaint}")


def _complaint(finished: program.Finished) -> str:
    """What the helper says, unless that is a credential after all."""
    for output in (finished.stdout, finished.stderr):
        if output.strip() and b"{" not in output:
            return clip(output.decode(errors="replace"))
    return "no reason given"
