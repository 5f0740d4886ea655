"""What authenticates a request: TLS context and bearer token, renewed while the process runs."""

import asyncio
import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import InvalidInput, clip
from vzkubelet.kube import exec_plugin
from vzkubelet.kube.exec_plugin import ExecCredential
from vzkubelet.kube.kubeconfig import Access

_log = logging.getLogger(__name__)

TOKEN_FILE_LIFE_S = 60.0
"""How long a token that was read from a file is used (client-go ``transport/token_source.go``)."""
EXPIRY_MARGIN_S = 30.0
EXPIRY_MARGIN_SHARE = 0.2
"""A credential is renewed this long before it expires, or this share of its life if that is shorter."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """Of one request. `tls` is None for plain http; `token` is empty where a certificate says it all."""

    tls: ssl.SSLContext | None
    token: str = field(default="", repr=False)


class Credentials:
    """Gives each request its authentication. Raises of the constructor: InvalidInput (certificates that do not load).

    `environment` is what an exec plugin inherits.
    """

    def __init__(
        self, access: Access, *, environment: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> None:
        self.access = access
        self._environment = dict(environment or {})
        self._clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self._secure = access.server.startswith("https:")
        self._tls = self._context(access.client_certificate, access.client_key)
        self._token, self._token_read_at = access.token, float("-inf")
        self._exec: ExecCredential | None = None
        self._renew_at = float("inf")

    @property
    def server(self) -> str:
        return self.access.server

    @property
    def server_name(self) -> str | None:
        return self.access.server_name or None

    async def authenticate(self) -> Authentication:
        """Authentication for a request that is made now.

        Raises:
            InvalidInput, Unauthenticated, DeadlineExceeded: a token file or plugin gives no credential.
        """
        if self.access.exec is not None:
            return await self._authenticate_by_plugin()
        if self.access.token_file is not None:
            self._read_token_file(self.access.token_file)
        return Authentication(self._tls, self._token)

    def refused(self, used: Authentication) -> bool:
        """The API server answered 401: forget what can be renewed. Returns whether trying again makes sense."""
        if self.access.token_file is not None:
            self._token_read_at = float("-inf")
            return True
        if self.access.exec is None:
            return False
        if self._exec is not None and used.token == self._exec.token:
            self._exec = None
        return True

    async def user_name(self) -> str:
        """The common name of the client certificate, which is the user's name; empty without a certificate.

        Raises: as `authenticate`; InvalidInput when the certificate cannot be parsed.
        """
        await self.authenticate()
        pem = self._exec.client_certificate if self._exec is not None else self.access.client_certificate
        return common_name(pem) if pem else ""

    def _read_token_file(self, path: Path) -> None:
        now = self._clock.monotonic()
        if now - self._token_read_at < TOKEN_FILE_LIFE_S:
            return
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not text"
            if not self._token:
                raise InvalidInput(f"cannot read token file {path}: {reason}") from exc
            _log.warning("token file %s cannot be read, going on with the token read before: %s", path, reason)
            self._token_read_at = now
            return
        if not token:
            raise InvalidInput(f"token file {path} is empty")
        self._token, self._token_read_at = token, now

    async def _authenticate_by_plugin(self) -> Authentication:
        async with self._lock:
            if self._exec is None or self._clock.time() >= self._renew_at:
                await self._run_plugin()
            assert self._exec is not None
            return Authentication(self._tls, self._exec.token)

    async def _run_plugin(self) -> None:
        assert self.access.exec is not None
        fresh = await exec_plugin.run(self.access, self.access.exec, self._environment)
        if self._exec is None or fresh.client_certificate != self._exec.client_certificate:
            self._tls = self._context(fresh.client_certificate, fresh.client_key)
        self._exec, self._renew_at = fresh, float("inf")
        if fresh.expires_at is not None:
            life_s = max(0.0, fresh.expires_at - self._clock.time())
            self._renew_at = fresh.expires_at - min(EXPIRY_MARGIN_S, life_s * EXPIRY_MARGIN_SHARE)

    def _context(self, certificate: bytes, key: bytes) -> ssl.SSLContext | None:
        return tls_context(self.access, certificate, key) if self._secure else None


def tls_context(access: Access, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """A client context for the API server.

    Raises:
        InvalidInput: CA, certificate or key are not what they should be.
    """
    try:
        context = ssl.create_default_context(cadata=access.ca.decode("ascii") if access.ca else None)
    except (ssl.SSLError, ValueError) as exc:
        raise InvalidInput(f"the CA certificate of {access.server} is not PEM: {clip(str(exc))}") from exc
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        try:
            _load_pair(context, certificate, key)
        except (ssl.SSLError, ValueError) as exc:
            raise InvalidInput(
                f"the client certificate for {access.server} and its key do not load: {clip(str(exc))}"
            ) from exc
    return context


def common_name(certificate: bytes) -> str:
    """Subject CN of the first certificate in PEM.

    Raises:
        InvalidInput: not a certificate.
    """
    try:
        names = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as exc:
        raise InvalidInput(f"the client certificate is not PEM: {clip(str(exc))}") from exc
    return str(names[0].value) if names else ""


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # OpenSSL loads pairs from files only. This one is readable by us alone, and only for this moment.
    descriptor, name = tempfile.mkstemp(prefix="client-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(name, password=_no_password)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _no_password() -> str:
    """Instead of asking at the terminal."""
    raise ValueError("the key is encrypted, which is not supported")
