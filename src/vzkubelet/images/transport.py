"""HTTP to registries and what they redirect to: schemes, time-outs, and errors in our own terms."""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

import vzkubelet
from vzkubelet.errors import InvalidInput, Unavailable, clip
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.patience import Patience
from vzkubelet.images.throttling import Holds

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
"""Between two reads, never for a whole download. Also the time a registry has to answer after an upload's last byte,
where it may have to hash all of it; `upload_timeout` is for that."""
UPLOAD_ANSWER_TIMEOUT_S = 900.0
READ_BUFFER_BYTES = 1024 * 1024
"""aiohttp pauses the socket at twice this; its default of 64 KiB costs a wake-up per 100 KiB on a fast link."""


def is_loopback(host: str) -> bool:
    """``localhost`` and loopback addresses: the only places that plain HTTP is taken for without being told."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Transport:
    """A client session whose failures are errors of this package.

    Responses are not decoded (a blob's bytes are what its digest is about) and redirects are not followed here: whoever
    follows one must decide about the Authorization header.
    """

    patience = Patience()
    """How downloads of blobs that fail are tried again; `send` itself tries nothing again."""

    def __init__(self, *, plain_http: bool = False, tls: ssl.SSLContext | None = None) -> None:
        """`plain_http` allows unencrypted HTTP to any host; loopback hosts are always asked over it."""
        self._plain_http = plain_http
        self._tls: ssl.SSLContext | bool = tls or True
        self._session: aiohttp.ClientSession | None = None
        self.holds = Holds()

    def base_url(self, host: str) -> URL:
        """The registry API's root at a reference's domain.

        Raises:
            InvalidInput: no host can have that name (a port above 65535).
        """
        host = "registry-1.docker.io" if host == "docker.io" else host
        try:
            url = URL(f"https://{host}")
        except ValueError as exc:
            raise InvalidInput(f"{clip(host)} is not a registry host: {clip(str(exc))}", reason=PULL_REASON) from exc
        if self._plain_http or is_loopback(url.host or ""):
            url = url.with_scheme("http").with_port(url.explicit_port)
        return url

    def check_scheme(self, url: URL, name: str) -> None:
        """Raises InvalidInput for plain HTTP beyond loopback: credentials and image would be readable on the way."""
        plain_allowed = self._plain_http or is_loopback(url.host or "")
        if not url.host or url.scheme not in ("http", "https") or (url.scheme == "http" and not plain_allowed):
            raise InvalidInput(
                f"{name}: refusing plain http to {clip(url.host or str(url))}: "
                "only loopback registries are used without TLS",
                reason=PULL_REASON,
            )

    async def send(
        self,
        method: str,
        url: URL,
        name: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> aiohttp.ClientResponse:
        """The response, its body unread; the caller releases it (``async with response``). `name` is for messages.

        Raises:
            Unavailable: no answer.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s)
        async with translated(name, url):
            try:
                return await self._open_session().request(
                    method, url, headers=headers, data=data, timeout=timeout, allow_redirects=False, ssl=self._tls
                )
            except ValueError as exc:
                if isinstance(exc, aiohttp.ClientError):
                    raise
                # Of a path or token that a server gave and that has line breaks in it.
                what = f"no request can be made to {url.host_port_subcomponent}"
                raise Unavailable(f"{name}: {what}: {clip(str(exc))}", reason=PULL_REASON) from exc

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"macos-vz-kubelet/{vzkubelet.__version__}", "Accept-Encoding": "identity"},
            )
        return self._session


@asynccontextmanager
async def translated(name: str, url: URL) -> AsyncIterator[None]:
    """Failures of the connection as Unavailable, with the cause in words."""
    host = url.host_port_subcomponent or str(url)
    try:
        yield
    except TimeoutError as exc:
        raise Unavailable(f"{name}: {host} does not answer in time", reason=PULL_REASON) from exc
    except aiohttp.ClientConnectorCertificateError as exc:
        cause = clip(str(exc.certificate_error))
        raise Unavailable(f"{name}: the certificate of {host} is not trusted: {cause}", reason=PULL_REASON) from exc
    except aiohttp.ClientConnectorSSLError as exc:
        # What Python says of it, WRONG_VERSION_NUMBER, helps nobody who forgot the flag.
        cause = f"{clip(str(exc.os_error))}; if it is a registry without TLS, --plain-http allows it"
        raise Unavailable(f"{name}: no TLS with {host}: {cause}", reason=PULL_REASON) from exc
    except aiohttp.ClientConnectorError as exc:
        cause = exc.strerror or str(exc)
        raise Unavailable(f"{name}: {host} cannot be reached: {clip(cause)}", reason=PULL_REASON) from exc
    except aiohttp.InvalidURL as exc:
        raise InvalidInput(f"{name}: {clip(str(url))} is not a URL", reason=PULL_REASON) from exc
    except aiohttp.ClientResponseError as exc:
        # Its own text has the whole URL, which storage behind a registry signs: nothing for events and logs.
        cause = clip(exc.message.partition("\n")[0].rstrip(":")) or type(exc).__name__
        raise Unavailable(f"{name}: {host} does not answer in HTTP: {cause}", reason=PULL_REASON) from exc
    except (aiohttp.ClientError, OSError) as exc:
        cause = clip(str(exc)) or type(exc).__name__
        raise Unavailable(f"{name}: the connection to {host} broke: {cause}", reason=PULL_REASON) from exc


async def read_limited(response: aiohttp.ClientResponse, limit_bytes: int, name: str) -> bytes:
    """The whole body.

    Raises:
        InvalidInput: more than `limit_bytes`; nothing beyond that is held.
    """
    parts: list[bytes] = []
    size = 0
    async with translated(name, response.url):
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit_bytes:
                raise InvalidInput(
                    f"{name}: {response.url.host} answers more than {limit_bytes} bytes", reason=PULL_REASON
                )
            parts.append(part)
    return b"".join(parts)
