"""A reverse proxy before a registry: it remembers requests, holds blobs half way, and breaks connections on demand."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

_HOP_HEADERS = ("Transfer-Encoding", "Connection", "Keep-Alive")


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str
    headers: CIMultiDict[str]


class RegistryProxy:
    """Serves GET and HEAD of `upstream` (a URL) on a free loopback port while entered."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.seen: list[Seen] = []
        self.passed: Counter[str] = Counter()
        """Bytes of each blob, by its digest, that went through."""
        self.hold_after_bytes: int | None = None
        """Stop when that many bytes of a blob have passed in all, until `release` is set; None = do not."""
        self.cut_after_bytes: int | None = None
        """As `hold_after_bytes`, but all connections for it break from there on."""
        self.is_down = False
        """Every connection is broken at once."""
        self.held = asyncio.Event()
        self.release = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application()
        application.router.add_get("/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        await self._runner.cleanup()
        await self._session.close()

    def blob_downloads(self) -> list[str]:
        """Digests of the blobs that were asked for from their beginning, in order."""
        return [
            seen.path.rpartition("/")[2]
            for seen in self.seen
            if seen.method == "GET"
            and "/blobs/" in seen.path
            and seen.headers.get("Range", "bytes=0-").startswith("bytes=0-")
        ]

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.method, request.path, CIMultiDict(request.headers)))
        assert request.transport is not None
        if self.is_down:
            request.transport.abort()
            return web.Response()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            with contextlib.suppress(ConnectionError):  # a client that goes away is what many tests are about
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(16 * 1024):
                    if "/blobs/" in request.path:
                        digest = request.path.rpartition("/")[2]
                        await self._disturb(self.passed[digest] + len(chunk), request)
                        self.passed[digest] += len(chunk)
                    await response.write(chunk)
                await response.write_eof()
        return response

    async def _disturb(self, passed: int, request: web.Request) -> None:
        if self.cut_after_bytes is not None and passed > self.cut_after_bytes:
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        if self.hold_after_bytes is not None and passed > self.hold_after_bytes and not self.release.is_set():
            self.held.set()
            await self.release.wait()
