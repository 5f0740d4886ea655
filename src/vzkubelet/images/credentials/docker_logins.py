"""What ``docker login`` stores and finds: ``config.json``, and the credential helpers that it names.

A helper for the registry (``credHelpers``), else the store for all (``credsStore``), goes before what the file itself
holds (docker/cli, ``cli/config/configfile``).
"""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vzkubelet import aio, program
from vzkubelet.errors import InvalidInput, Unavailable
from vzkubelet.files import open_regular, write_atomic
from vzkubelet.images.credentials import helpers
from vzkubelet.model.docker_config import Keyring, RegistryCredential
from vzkubelet.model.reference import HUB_DOMAIN, Reference

HUB_SERVER = "https://index.docker.io/v1/"
"""What Docker calls its hub in files and to helpers."""
_HUB_NAMES = frozenset({HUB_DOMAIN, "index.docker.io", "registry-1.docker.io"})
_EMPTY = RegistryCredential()


class _Helpers(msgspec.Struct, frozen=True):
    creds_store: str = msgspec.field(default="", name="credsStore")
    cred_helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")


def server_of(registry: str) -> str:
    """The key of a registry in ``config.json``: its host and port, or the hub's address.

    Raises:
        InvalidInput: a repository, or no host at all.
    """
    host, slash, path = registry.removeprefix("https://").removeprefix("http://").partition("/")
    if host in _HUB_NAMES:
        return HUB_SERVER
    if not host or (slash and path.strip("/")):
        raise InvalidInput(f'"{registry}" is not a registry: give its host, such as registry.example.com:5000')
    return host


class DockerLogins:
    """The logins of one ``config.json``, read anew at each call: a person may log in while we run."""

    def __init__(self, directory: Path, environment: Mapping[str, str], run: helpers.Run = program.run) -> None:
        """`environment` is that of the helpers, which are looked up in its PATH."""
        self.path = directory / "config.json"
        self._environment = environment
        self._run = run

    async def lookup(self, reference: Reference) -> tuple[RegistryCredential, ...]:
        """Logins for an image in the order in which to try them; empty = pull anonymously.

        Raises:
            InvalidInput: not such a file, or a helper that is none. Unavailable, DeadlineExceeded: a helper fails.
        """
        content = await aio.run_blocking(self._read)
        if content is None or not content.strip():
            return ()
        keyring = Keyring()
        keyring.add_config(content, str(self.path))
        # An entry without a login only says that a helper has one.
        stored = [login for login in keyring.lookup(reference) if login != _EMPTY]
        server = HUB_SERVER if reference.domain in _HUB_NAMES else reference.domain
        helper = self._helper(content, server)
        kept = None if helper is None else await helper.get(server)
        return tuple(dict.fromkeys(stored if kept is None else [kept, *stored]))

    async def store(self, server: str, login: RegistryCredential) -> str:
        """Keep a login under what `server_of` says; where it went, for people.

        Raises:
            As `lookup`; Unavailable: the file cannot be written.
        """
        document = await aio.run_blocking(self._document)
        helper = self._helper(msgspec.json.encode(document), server)
        entries = _entries(document, self.path)
        if helper is not None:
            await helper.store(server, login)
            entries[server] = {}
        elif login.identity_token:
            entries[server] = {"auth": _auth(login.username, ""), "identitytoken": login.identity_token}
        else:
            entries[server] = {"auth": _auth(login.username, login.password)}
        await aio.run_blocking(self._write, document)
        return str(self.path) if helper is None else helper.name

    async def erase(self, server: str) -> bool:
        """Forget a login. Whether there was one.

        Raises:
            As `store`.
        """
        content = await aio.run_blocking(self._read)
        if content is None:
            return False
        document = await aio.run_blocking(self._document)
        helper = self._helper(content, server)
        had = False
        if helper is not None:
            had = await helper.get(server) is not None
            await helper.erase(server)
        entries = _entries(document, self.path)
        if server in entries:
            had = True
            del entries[server]
            await aio.run_blocking(self._write, document)
        return had

    def _helper(self, content: bytes, server: str) -> helpers.Helper | None:
        try:
            named = msgspec.json.decode(content, type=_Helpers)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidInput(f"{self.path}: credsStore or credHelpers is not what Docker writes") from None
        by_server = named.cred_helpers or {}
        aliases = (server, *sorted(_HUB_NAMES)) if server == HUB_SERVER else (server,)
        name = next((by_server[alias] for alias in aliases if by_server.get(alias)), named.creds_store)
        return helpers.Helper(name, self._environment, self._run) if name else None

    def _read(self) -> bytes | None:
        try:
            with os.fdopen(open_regular(self.path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise InvalidInput(f"cannot read {self.path}: {exc.strerror}") from exc

    def _document(self) -> dict[str, Any]:
        content = self._read()
        try:
            return {} if content is None or not content.strip() else msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidInput(f"{self.path} is not a JSON object: repair or remove it") from None

    def _write(self, document: dict[str, Any]) -> None:
        """Where a link leads, as Docker does: dotfiles are often links."""
        try:
            path = self.path.resolve() if self.path.is_symlink() else self.path
            write_atomic(path, msgspec.json.format(msgspec.json.encode(document), indent=4) + b"\n", mode=0o600)
        except OSError as exc:
            raise Unavailable(f"cannot write {self.path}: {exc.strerror}") from exc


def _entries(document: dict[str, Any], path: Path) -> dict[str, Any]:
    entries = document.setdefault("auths", {})
    if not isinstance(entries, dict):
        raise InvalidInput(f"{path}: auths is not an object: repair or remove it")
    return entries


def _auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()
