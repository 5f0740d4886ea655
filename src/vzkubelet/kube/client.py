"""Requests to the API server: typed answers in, Kubernetes statuses out as `vzkubelet.errors`.

Every call may raise Unauthenticated, Forbidden, Unavailable, DeadlineExceeded and InvalidInput; what a call raises
beyond them is written at it. A refused credential that can be renewed is renewed once. An answer with Retry-After
is waited for and asked again, as client-go does.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, NoReturn, TypeVar, overload

import msgspec

from vzkubelet import __version__
from vzkubelet.aio import Clock
from vzkubelet.errors import (
    AlreadyExists,
    Conflict,
    Error,
    Forbidden,
    Gone,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
    clip,
)
from vzkubelet.kube.credentials import Authentication, Credentials
from vzkubelet.kube.rate import TokenBucket
from vzkubelet.kube.transport import HttpTransport, Request, Response, Transport
from vzkubelet.model.meta import Status

_log = logging.getLogger(__name__)
T = TypeVar("T")

QPS = 50.0
BURST = 100
"""kubeAPIQPS and kubeAPIBurst of the kubelet."""
TIMEOUT_S = 30.0
RETRIES = 5
RETRY_AFTER_MAX_S = 30.0
MESSAGE_LIMIT = 1024
"""Characters of a server's message that are kept: admission webhooks explain themselves at length."""
JSON = "application/json"

Query = Mapping[str, str | int | bool]

_CLASSES: dict[int, type[Error]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: InvalidInput,
    406: InvalidInput,
    409: Conflict,
    410: Gone,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
}
"""429, 5xx and everything else that is not 2xx: Unavailable."""


class Patch(StrEnum):
    """Kinds of patch by their content type."""

    STRATEGIC = "application/strategic-merge-patch+json"
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


class Client:
    """One identity at one API server. `throttle=False` is for the lease, which must not wait behind other requests."""

    def __init__(
        self, credentials: Credentials, transport: Transport | None = None, clock: Clock | None = None
    ) -> None:
        self._credentials = credentials
        self._transport = transport or HttpTransport(credentials.server)
        self._limit = TokenBucket(QPS, BURST, clock)

    @property
    def server(self) -> str:
        return self._credentials.server

    async def user_name(self) -> str:
        """Whose name the client certificate bears; empty when it is not a certificate that says who we are."""
        return await self._credentials.user_name()

    async def close(self) -> None:
        await self._transport.close()

    async def get(self, path: str, as_: type[T], *, query: Query | None = None, throttle: bool = True) -> T:
        """Raises NotFound."""
        return await self.request("GET", path, as_, query=query, throttle=throttle)

    async def create(self, path: str, body: object, as_: type[T], *, throttle: bool = True) -> T:
        """POST. Raises AlreadyExists, NotFound (the namespace)."""
        return await self.request("POST", path, as_, body=body, throttle=throttle)

    async def replace(self, path: str, body: object, as_: type[T], *, throttle: bool = True) -> T:
        """PUT. Only for objects that we own whole: a struct holds no field that it does not declare.

        Raises Conflict, NotFound.
        """
        return await self.request("PUT", path, as_, body=body, throttle=throttle)

    async def patch(self, path: str, kind: Patch, body: object, as_: type[T]) -> T:
        """Raises Conflict, NotFound."""
        return await self.request("PATCH", path, as_, body=body, content_type=kind.value)

    async def delete(self, path: str, *, grace_s: int | None = None, uid: str = "") -> None:
        """Raises NotFound; Conflict when the object has another UID than `uid`."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        await self.request("DELETE", path, None, body=options)

    @overload
    async def request(
        self,
        method: str,
        path: str,
        as_: type[T],
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout_s: float = TIMEOUT_S,
        throttle: bool = True,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        path: str,
        as_: None,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout_s: float = TIMEOUT_S,
        throttle: bool = True,
    ) -> None: ...

    async def request(
        self,
        method: str,
        path: str,
        as_: type[T] | None,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout_s: float = TIMEOUT_S,
        throttle: bool = True,
    ) -> T | None:
        """Any request with a whole answer. `body` is bytes as they are, or anything msgspec encodes; `as_` None drops
        the answer. `path` is quoted already. `timeout_s` is for each try.

        Raises: as the module says; NotFound, AlreadyExists, Conflict, Gone by the answer.
        """
        payload = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        headers = {"Content-Type": content_type} if payload is not None else {}
        request = Request(method, path, _query(query), headers, payload, timeout_s)
        for attempt in range(RETRIES + 1):
            async with self._exchange(request, throttle=throttle) as response:
                content = await response.read()
                if 200 <= response.status < 300:
                    return None if as_ is None else _decoded(content, as_, request)
                delay_s = retry_after_s(response)
                if delay_s is None or attempt == RETRIES:
                    raise_status(request, response.status, content)
            _log.debug("%s %s: %d, asking again in %.0f s", method, path, response.status, delay_s)
            await asyncio.sleep(delay_s)
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Query, *, timeout_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET whose answer is read as it comes, for at most `timeout_s`.

        Raises: as `request`, at once and while reading.
        """
        request = Request("GET", path, _query(query), {}, None, timeout_s)
        async with self._exchange(request, throttle=True) as response:
            if response.status != 200:
                raise_status(request, response.status, await response.read())
            async with contextlib.aclosing(response.chunks()) as chunks:
                yield chunks

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request, *, throttle: bool) -> AsyncIterator[Response]:
        """One exchange, made again once with a renewed credential when the first is refused."""
        if throttle:
            await self._limit.take()
        used = await self._credentials.authenticate()
        async with contextlib.AsyncExitStack() as stack:
            response = await stack.enter_async_context(self._sent(request, used))
            if response.status == 401 and self._credentials.refused(used):
                await stack.aclose()
                response = await stack.enter_async_context(self._sent(request, await self._credentials.authenticate()))
            yield response

    def _sent(self, request: Request, used: Authentication) -> contextlib.AbstractAsyncContextManager[Response]:
        headers = {"Accept": JSON, "User-Agent": f"macos-vz-kubelet/{__version__}", **request.headers}
        if used.token:
            headers["Authorization"] = f"Bearer {used.token}"
        complete = Request(request.method, request.path, request.query, headers, request.body, request.timeout_s)
        return self._transport.send(complete, used.tls, self._credentials.server_name)


def retry_after_s(response: Response) -> float | None:
    """How long a 429 or 5xx answer asks to wait; None when it does not ask."""
    if response.status != 429 and response.status < 500:
        return None
    try:
        delay_s = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return min(max(delay_s, 0.0), RETRY_AFTER_MAX_S)


def raise_status(request: Request, code: int, content: bytes) -> NoReturn:
    """Raise what an answer that is not 2xx means."""
    try:
        status = msgspec.json.decode(content, type=Status)
    except msgspec.MsgspecError:
        status = Status()
    if status.kind != "Status" or not status.message:
        said = clip(content.decode(errors="replace")) or "no explanation"
        status = Status(message=f"API server answered {code} to {request.method} {request.path}: {said}")
    raise from_status(status, code)


def from_status(status: Status, code: int = 0) -> Error:
    """The error that a Status object stands for; `code` where the status has none."""
    code = status.code or code
    message = clip(status.message, MESSAGE_LIMIT)
    if status.reason == "AlreadyExists":
        return AlreadyExists(message)
    return _CLASSES.get(code, Unavailable)(message, reason=status.reason or None)


def _decoded(content: bytes, as_: type[T], request: Request) -> T:
    try:
        return msgspec.json.decode(content, type=as_)
    except msgspec.MsgspecError as exc:
        raise Unavailable(
            f"API server answered {request.method} {request.path} with something else than {as_.__name__}: "
            f"{clip(str(exc))}"
        ) from exc


def _query(query: Query | None) -> tuple[tuple[str, str], ...]:
    def text(value: str | int | bool) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return tuple((key, text(value)) for key, value in (query or {}).items())
