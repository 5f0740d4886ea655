"""A reverse proxy before a registry that treats downloads of blobs as registries and proxies of the wild do.

What happens to which request is decided by a plan, so that a test reads as what it is about; a plan that draws lots
takes a seed.
"""

import asyncio
import contextlib
import itertools
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

import aiohttp
from aiohttp import web

from vzkubelet.images.pace import ROUND_MAX_BYTES, Pace

_HOP_HEADERS = frozenset({"transfer-encoding", "connection", "keep-alive"})
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")
_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """One GET of a blob; `number` counts them from 0."""

    number: int
    digest: str
    start: int | None
    end: int | None
    """As in a slice; None = all of it."""
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks in the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """The connection stays open in the body and brings nothing more."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Whole:
    """200 and the whole blob, whatever range is asked for; `is_chunked` does not tell its length before."""

    is_chunked: bool = False
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Status:
    """Another answer."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Challenge:
    """401, as the registry says it to who has no token."""


@dataclass(frozen=True, slots=True)
class Shifted:
    """206 for a range beside the one that was asked for."""

    by_bytes: int


@dataclass(frozen=True, slots=True)
class Flipped:
    """One byte of the body is wrong."""

    at: int


@dataclass(frozen=True, slots=True)
class Short:
    """A body, and a Content-Length, of fewer bytes than its Content-Range says."""

    by_bytes: int


@dataclass(frozen=True, slots=True)
class Long:
    """A body, and a Content-Length, of more bytes than its Content-Range says."""

    by_bytes: int


@dataclass(frozen=True, slots=True)
class OtherSize:
    """Content-Range tells another size of the blob."""

    by_bytes: int


Fault: TypeAlias = Cut | Stall | Whole | Status | Challenge | Shifted | Flipped | Short | Long | OtherSize
Plan: TypeAlias = Callable[[BlobRequest], Fault | None]


def never(_: BlobRequest) -> None:
    """The plan of a registry that behaves."""


def always(fault: Fault) -> Plan:
    return lambda _: fault


def only(numbers: set[int] | range, fault: Fault) -> Plan:
    """For the requests of these numbers."""
    return lambda request: fault if request.number in numbers else None


def cuts(seed: int, share: float, longest_bytes: int) -> Plan:
    """Cuts a share of the answers, after as many bytes as the lot says."""
    lots = random.Random(seed)
    return lambda _: Cut(lots.randrange(longest_bytes)) if lots.random() < share else None


class One(Pace):
    """Always one range at a time."""

    def measured(self, size_bytes: int, duration_s: float, waited_s: float, *, several: bool) -> None:
        """Changes nothing."""


class Several(Pace):
    """Always several ranges at a time, however fast the registry is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_several, self.round_bytes = True, ROUND_MAX_BYTES

    def measured(self, size_bytes: int, duration_s: float, waited_s: float, *, several: bool) -> None:
        """Changes nothing."""


class HostileRegistry:
    """Serves `upstream` (a URL) on a free loopback port while entered, and as much storage on another one."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._numbers = itertools.count()
        self.plan: Plan = never
        self.redirect_uses: int | None = None
        """Blobs are redirected to storage, by URLs that expire after as many requests; None = they are not."""
        self.token_uses: int | None = None
        """Each Authorization is good for as many requests for blobs; None = for all."""
        self.seen: list[BlobRequest] = []
        self.sent_bytes = 0
        """Of bodies of blobs."""
        self.storage_headers: list[Mapping[str, str]] = []
        self._uses: dict[str, int] = {}
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runners: list[web.AppRunner] = []
        self.host = await self._serve(self._registry)
        self.storage_host = await self._serve(self._storage)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for runner in self._runners:
            await runner.cleanup()
        await self._session.close()

    async def _serve(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        application = web.Application(client_max_size=2**40)
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    # --- The two servers

    async def _registry(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET" or "/blobs/sha256:" not in request.path:
            return await self._forward(request)
        authorization = request.headers.get("Authorization", "")
        if self.token_uses is not None and not self._has_use_left(authorization, self.token_uses):
            return await self._challenge(request)
        if self.redirect_uses is None:
            return await self._blob(request, request.path, request.headers)
        signature = f"{len(self._uses)}%2F+x"
        self._uses[signature.replace("%2F", "/").replace("+", " ")] = 0
        location = f"http://{self.storage_host}{request.path}?Signature={signature}"
        return web.Response(status=307, headers={"Location": location})

    async def _storage(self, request: web.Request) -> web.StreamResponse:
        self.storage_headers.append(dict(request.headers))
        assert self.redirect_uses is not None
        signature = request.query["Signature"]
        if signature not in self._uses or not self._has_use_left(signature, self.redirect_uses):
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code>Request has expired</Error>")
        return await self._blob(request, request.path, request.headers)

    def _has_use_left(self, name: str, uses: int) -> bool:
        self._uses[name] = self._uses.get(name, 0) + 1
        return self._uses[name] <= uses

    async def _challenge(self, request: web.Request) -> web.StreamResponse:
        async with self._session.get(f"{self._upstream}{request.path}") as answer:
            assert answer.status == 401
            challenge = answer.headers["WWW-Authenticate"]
            return web.Response(status=401, body=await answer.read(), headers={"WWW-Authenticate": challenge})

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=request.headers, data=body, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_HEADERS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response

    # --- Blobs

    async def _blob(self, request: web.Request, path: str, headers: Mapping[str, str]) -> web.StreamResponse:
        found = _RANGE.fullmatch(headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2]) + 1) if found else (None, None)
        asked = BlobRequest(next(self._numbers), path.rpartition("/")[2], start, end, dict(headers))
        self.seen.append(asked)
        fault = self.plan(asked)
        match fault:
            case Status(code, extra):
                return web.Response(status=code, headers=dict(extra))
            case Challenge():
                return await self._challenge(request)
            case Shifted(by_bytes) if start is not None and end is not None:
                start, end = start + by_bytes, end + by_bytes
            case Whole():
                start = end = None
        sent = {"Range": f"bytes={start}-{end - 1}"} if start is not None and end is not None else {}
        if "Authorization" in headers:
            sent["Authorization"] = headers["Authorization"]
        async with self._session.get(self._upstream + path, headers=sent) as answer:
            response = web.StreamResponse(status=answer.status, headers=_headers(answer, fault))
            with contextlib.suppress(ConnectionError):  # a client that goes away is what many tests are about
                await response.prepare(request)
                async for piece in _body(answer.content.iter_chunked(_PIECE_BYTES), fault):
                    await response.write(piece)
                    self.sent_bytes += len(piece)
                if isinstance(fault, Stall):
                    await self._closing.wait()
                if isinstance(fault, Cut | Stall):
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write_eof()
            return response


def _headers(answer: aiohttp.ClientResponse, fault: Fault | None) -> dict[str, str]:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_HEADERS}
    length = int(headers["Content-Length"])
    match fault:
        case Whole(is_chunked=True):
            del headers["Content-Length"]
        case Whole(extra=extra):
            headers["Content-Length"] = str(length + len(extra))
        case Short(by_bytes):
            headers["Content-Length"] = str(max(0, length - by_bytes))
        case Long(by_bytes):
            headers["Content-Length"] = str(length + by_bytes)
        case OtherSize(by_bytes) if "Content-Range" in headers:
            part, _, size = headers["Content-Range"].partition("/")
            headers["Content-Range"] = f"{part}/{int(size) + by_bytes}"
    return headers


async def _body(chunks: AsyncIterator[bytes], fault: Fault | None) -> AsyncIterator[bytes]:
    """What is sent of a body; a cut or stall ends it early."""
    position = 0
    held = b""
    async for chunk in chunks:
        piece = chunk
        match fault:
            case Cut(after_bytes) | Stall(after_bytes):
                piece = chunk[: max(0, after_bytes - position)]
            case Flipped(at) if position <= at < position + len(chunk):
                changed = bytearray(chunk)
                changed[at - position] ^= 0xFF
                piece = bytes(changed)
            case Short(by_bytes):
                held += chunk
                piece, held = held[:-by_bytes], held[-by_bytes:]
        position += len(chunk)
        if piece:
            yield piece
        if isinstance(fault, Cut | Stall) and position >= fault.after_bytes:
            return
    match fault:
        case Whole(extra=extra) if extra:
            yield extra
        case Long(by_bytes):
            yield bytes(by_bytes)
