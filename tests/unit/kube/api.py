"""An API server in memory: a transport that answers each request from a script or a function."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec
from multidict import CIMultiDict

from vzkubelet.kube.client import Client
from vzkubelet.kube.credentials import Credentials
from vzkubelet.kube.kubeconfig import Access
from vzkubelet.kube.transport import Request, Response


class LoopClock:
    """The loop's virtual time, also for those who ask for the time of day."""

    def time(self) -> float:
        return 1_800_000_000.25 + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Answer:
    """A response. `stream` gives chunks; an exception in it breaks the connection there."""

    def __init__(
        self,
        status: int = 200,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        stream: Callable[[], AsyncGenerator[bytes, None]] | None = None,
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = CIMultiDict(headers or {})
        self._body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self._stream = stream

    async def read(self) -> bytes:
        return self._body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        if self._stream is None:
            yield self._body
            return
        async with contextlib.aclosing(self._stream()) as chunks:
            async for chunk in chunks:
                yield chunk


def failure(code: int, reason: str, message: str = "told so", *, headers: Mapping[str, str] | None = None) -> Answer:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return Answer(code, {**body, "code": code}, headers=headers)


class Api:
    """`answer` is called for each request and returns the answer or raises; or give a script of such."""

    def __init__(self, answer: Callable[[Request], Answer] | Iterable[Answer | Exception]) -> None:
        self._answer: Callable[[Request], Answer]
        if callable(answer):
            self._answer = answer
        else:
            script = iter(answer)
            self._answer = lambda _: _raised(next(script))
        self.requests: list[Request] = []
        self.times: list[float] = []
        """When each came, by the loop's clock."""
        self.on_request: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def send(
        self, request: Request, tls: ssl.SSLContext | None, server_name: str | None
    ) -> AsyncIterator[Response]:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        self.on_request()
        yield self._answer(request)

    async def close(self) -> None:
        pass

    def client(self, access: Access | None = None) -> Client:
        return Client(Credentials(access or Access("http://localhost:1")), self, LoopClock())

    def bodies(self, method: str) -> list[Any]:
        """Decoded bodies of the requests with this method."""
        return [msgspec.json.decode(r.body or b"null") for r in self.requests if r.method == method]


def _raised(answer: Answer | Exception) -> Answer:
    if isinstance(answer, Exception):
        raise answer
    return answer
