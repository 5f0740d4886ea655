"""The connection to one Docker engine: requests, streams, and foreign errors made ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote

import aiodocker
import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from vzkubelet import errors
from vzkubelet.sidecars import objects

T = TypeVar("T")
DEFAULT_HOST = "unix:///var/run/docker.sock"
CALL_TIMEOUT_S = 120.0
"""For one call that answers at once: a busy disk makes creating a container slow, but not this slow."""
CONNECT_TIMEOUT_S = 10.0
_TEXT_LIMIT = 512
"""The cause stands at the end of Docker's long sentences."""
_UNREACHABLE_STATUS = 900
"""aiodocker's own number for "no connection"."""

_CLASSES: dict[int, type[errors.Error]] = {
    400: errors.InvalidInput,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
}


class Engine:
    """One engine, reached through `host` (``unix://``, ``tcp://``; empty = the default socket).

    Every method raises Unavailable when the engine cannot be reached and otherwise the class that fits its HTTP status,
    with Docker's text. Cancelling a call closes its connection.
    """

    def __init__(self, host: str) -> None:
        self.host = host or DEFAULT_HOST
        if not self.host.startswith(("unix://", "tcp://", "http://")):
            raise errors.InvalidInput(f'DOCKER_HOST "{errors.clip(host)}" is not understood: use unix:// or tcp://')
        self._docker: aiodocker.Docker | None = None

    async def client(self) -> aiodocker.Docker:
        """aiodocker's client, its API version agreed upon."""
        if self._docker is None:
            self._docker = self._make_client()
        if self._docker.api_version == "auto":
            with self.translated():
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._docker.version()
        return self._docker

    async def close(self) -> None:
        if self._docker is not None:
            docker, self._docker = self._docker, None
            await docker.close()
            await docker.session.close()

    async def get(self, path: str, type_: type[T], **params: str) -> T:
        return await self._call("GET", path, type_, params=params)

    async def post(self, path: str, type_: type[T], body: object = None, **params: str) -> T:
        return await self._call("POST", path, type_, params=params, body=body)

    async def command(self, path: str, *, method: str = "POST", **params: str) -> None:
        """A call without an answer. That the thing is already in the wanted state (304) is no error."""
        with self.translated():
            async with asyncio.timeout(CALL_TIMEOUT_S), self.response(method, path, params=params):
                return

    async def delete(self, path: str, **params: str) -> None:
        """Delete; what is gone already is no error."""
        with contextlib.suppress(errors.NotFound):
            await self.command(path, method="DELETE", **params)

    async def wait_until_stopped(self, container_id: str) -> None:
        """Until the container does not run; at once if it does not. No time limit."""
        async with self.response("POST", f"containers/{container_id}/wait") as response:
            await response.read()

    async def progress(
        self,
        path: str,
        params: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> None:
        """A call that answers 200 at once and tells failure in its stream: pull, import.

        Raises:
            Unavailable: also with what the stream told; the caller looks at the text.
        """
        async with self.response("POST", path, params=params, headers=headers, data=data) as response:
            async for line in lines(response.content.iter_any()):
                report = msgspec.json.decode(line, type=objects.Progress)
                if report.error:
                    raise errors.Unavailable(errors.clip(report.error, _TEXT_LIMIT))

    @contextlib.asynccontextmanager
    async def response(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with a good status, its body unread; closed when the block ends. No time limit."""
        docker = await self.client()
        url = f"{docker.docker_host}/{docker.api_version}/{quote(path, safe='/:@')}"
        with self.translated():
            async with docker.session.request(method, url, params=params or {}, headers=headers, data=data) as response:
                if response.status >= 400:
                    raise error_of(response.status, await response.read())
                yield response

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Make errors of aiodocker and its transport ours."""
        try:
            yield
        except DockerError as exc:
            if exc.status == _UNREACHABLE_STATUS:
                raise self._unreachable(exc) from exc
            raise error_of(exc.status, exc.message) from exc
        except (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionRefusedError) as exc:
            raise self._unreachable(exc) from exc
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(exc, TimeoutError):
                raise errors.DeadlineExceeded(f"the Docker engine at {self.host} did not answer in time") from exc
            raise errors.Unavailable(f"the Docker engine at {self.host} broke off: {errors.clip(str(exc))}") from exc
        except msgspec.DecodeError as exc:
            raise errors.Unavailable(f"the Docker engine at {self.host} sent nonsense: {exc}") from exc

    async def _call(
        self, method: str, path: str, type_: type[T], *, params: Mapping[str, str], body: object = None
    ) -> T:
        headers = {"Content-Type": "application/json"}
        data = None if body is None else msgspec.json.encode(body)
        with self.translated():
            async with asyncio.timeout(CALL_TIMEOUT_S):
                async with self.response(method, path, params=params, headers=headers, data=data) as response:
                    return msgspec.json.decode(await response.read(), type=type_)

    def _make_client(self) -> aiodocker.Docker:
        connector: aiohttp.BaseConnector
        if self.host.startswith("unix://"):
            url = "unix://localhost"
            connector = aiohttp.UnixConnector(self.host.removeprefix("unix://"), limit=0)
        else:
            url = "http://" + self.host.partition("://")[2]
            connector = aiohttp.TCPConnector(limit=0)
        # No limit of connections: every running container has one that waits for its end.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return aiodocker.Docker(url, connector=connector, session=session, timeout=timeout)

    def _unreachable(self, exc: BaseException) -> errors.Unavailable:
        cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
        reason = getattr(cause, "strerror", None) or str(exc)
        return errors.Unavailable(
            f"Cannot connect to the Docker engine at {self.host}: start it or set DOCKER_HOST ({errors.clip(reason)})"
        )


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


def error_of(status: int, body: bytes | str) -> errors.Error:
    """The error that an HTTP status and Docker's answer mean."""
    text = body if isinstance(body, str) else body.decode(errors="replace")
    with contextlib.suppress(msgspec.DecodeError):
        text = msgspec.json.decode(text, type=_Message).message or text
    return _CLASSES.get(status, errors.Unavailable)(errors.clip(text, _TEXT_LIMIT))


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The non-empty lines of a stream, whatever chunks it comes in."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def filters(**values: list[str]) -> str:
    """The `filters` parameter of a listing."""
    return msgspec.json.encode(values).decode()
