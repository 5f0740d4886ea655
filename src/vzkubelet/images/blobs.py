"""Parts of a repository's blobs: one request each, to where the registry keeps the blob."""

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from vzkubelet.errors import Integrity, Unavailable
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.pace import Pace
from vzkubelet.images.patience import Progress
from vzkubelet.images.requests import Requests
from vzkubelet.images.throttling import RETRY_AFTER_DEFAULT_S, retry_after_s
from vzkubelet.images.transport import READ_TIMEOUT_S, translated
from vzkubelet.model.oci import Descriptor

_STALE_LOCATION = (400, 401, 403, 404, 410)
"""What storage behind a registry says to a signed URL that has expired (AWS 400, 403; Azure 403; others the rest)."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


@dataclass(frozen=True, slots=True)
class BlobRange:
    """One answer to a request for a part of a blob."""

    start: int
    """Where in the blob the body begins: where it was asked for, or 0 from a server that does not know ranges."""
    is_whole: bool
    """It is the whole blob, from its start."""
    chunks: AsyncIterator[bytes]
    """The body as it comes, unverified; it may go beyond what was asked for, or end before it."""


class Blobs:
    """The blobs of one repository, and where it redirects them to. Belongs to one event loop."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._locations: dict[str, URL] = {}
        self.is_rangeless = False
        """A part of a blob was asked for, and the whole of it was sent."""
        self.pace = Pace()
        self.progress = Progress()

    @asynccontextmanager
    async def range(
        self, descriptor: Descriptor, start: int, end: int, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> AsyncIterator[BlobRange]:
        """One try at the bytes from `start` up to and without `end`; the whole blob is asked for without a range.

        Waits while the host has asked to be left alone. Where a registry redirects a blob to is remembered as long as
        it answers: the URL expires after minutes, and is then asked for anew without the caller noticing.

        Raises:
            NotFound, Unauthenticated, Forbidden; Integrity: the registry's blob has another size; Unavailable: worth
            another try, also while iterating.
        """
        ranged = (start, end) != (0, descriptor.size)
        # Always closed, for not every server that sends Accept-Ranges, or none, takes an open one.
        headers = {"Range": f"bytes={start}-{end - 1}"} if ranged else {}
        response = await self._located(descriptor.digest, headers, read_timeout_s)
        try:
            if response.status == 416:
                response.close()
                response = await self._located(descriptor.digest, {}, read_timeout_s)
            begin = await self._begin(response, descriptor, start)
            is_whole = response.status == 200
            self.is_rangeless |= ranged and is_whole
            async with aclosing(_body_chunks(response, self._requests.name)) as chunks:
                yield BlobRange(begin, is_whole, chunks)
        except Unavailable:
            self._locations.pop(descriptor.digest, None)
            raise
        finally:
            response.close()

    async def _begin(self, response: aiohttp.ClientResponse, descriptor: Descriptor, start: int) -> int:
        """Where the body begins. Raises what `range` does for every answer that has none."""
        host = response.url.host_port_subcomponent or ""
        match response.status:
            case 200:
                self._check_size(descriptor, response.content_length)
                return 0
            case 206:
                found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != start or int(found[2]) < start:
                    what = f"{host} answers another range of blob {descriptor.digest} than it was asked for"
                    raise Unavailable(f"{self._requests.name}: {what}", reason=PULL_REASON)
                self._check_size(descriptor, None if found[3] == "*" else int(found[3]))
                return start
            case 429 | 503:
                wanted_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
                if wanted_s is not None or response.status == 429:
                    self._requests.transport.holds.hold(host, RETRY_AFTER_DEFAULT_S if wanted_s is None else wanted_s)
        raise await self._requests.error(response, f"blob {descriptor.digest}")

    def _check_size(self, descriptor: Descriptor, actual: int | None) -> None:
        if actual is None or actual == descriptor.size:
            return
        is_longer = actual > descriptor.size
        what = f"is longer than its {descriptor.size} bytes" if is_longer else f"ends after {actual} bytes"
        raise Integrity(
            f"{self._requests.name}: blob {descriptor.digest} {what}: damaged in the registry or on the way",
            reason=PULL_REASON,
        )

    async def _located(self, digest: str, headers: Mapping[str, str], read_timeout_s: float) -> aiohttp.ClientResponse:
        """Any answer but a redirect, from where the blob was last or else from where the registry says."""
        known = self._locations.get(digest)
        if known is not None:
            response = await self._requests.send(
                "GET", known, headers=headers, held=True, read_timeout_s=read_timeout_s
            )
            if response.status not in _STALE_LOCATION:
                return response
            response.close()
            if self._locations.get(digest) == known:
                del self._locations[digest]
        url = self._requests.url("blobs", digest)
        response = await self._requests.follow(url, headers, held=True, read_timeout_s=read_timeout_s)
        if response.status < 400 and not self._requests.is_own(response.url):
            self._locations[digest] = response.url
        return response


async def _body_chunks(response: aiohttp.ClientResponse, name: str) -> AsyncGenerator[bytes, None]:
    """The body as the transport reads it: joining it would be one more copy of the whole image. To be closed."""
    async with translated(name, response.url):
        async for chunk, _ in response.content.iter_chunks():
            if chunk:
                yield chunk
