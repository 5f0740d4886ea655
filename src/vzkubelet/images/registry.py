"""One repository of a registry: manifests and blobs, in and out (OCI distribution-spec v1.1).

A request is sent again only after a 401 whose challenge could be answered. 403, 404 and every other failure are
reported as they are; whether to come back later is the caller's business (`ranges` does, for blobs).
"""

import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from vzkubelet.aio import run_blocking
from vzkubelet.errors import Error, Forbidden, Integrity, InvalidInput, NotFound, Unavailable, clip
from vzkubelet.images.authorization import Answered, Login, parse_challenges
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.throttling import RETRY_AFTER_DEFAULT_S, retry_after_s
from vzkubelet.images.transport import UPLOAD_ANSWER_TIMEOUT_S, Transport, read_limited, translated
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

_ACCEPT = ", ".join((oci.MANIFEST, oci.INDEX, oci.DOCKER_MANIFEST, oci.DOCKER_MANIFEST_LIST))
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECT_LIMIT = 5
_SEND_LIMIT = 4
"""With a challenge answered, and once more when another request's answer was refused as well."""
_STALE_LOCATION = (400, 401, 403, 404, 410)
"""What storage behind a registry says to a signed URL that has expired (AWS 400, 403; Azure 403; others the rest)."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_ERROR_BODY_LIMIT_BYTES = 64 * 1024
_UPLOAD_CHUNK_BYTES = 1024 * 1024
Body = Callable[[], Any]
"""Makes the body anew for each sending."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as the registry holds it; `content` has been checked against `digest`."""

    media_type: str
    digest: str
    content: bytes


@dataclass(frozen=True, slots=True)
class BlobRange:
    """One answer to a request for a part of a blob."""

    start: int
    """Where in the blob the body begins: where it was asked for, or 0 from a server that does not know ranges."""
    chunks: AsyncIterator[bytes]
    """The body as it comes, unverified; it may go beyond what was asked for, or end before it."""


class _ErrorEntry(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    errors: list[_ErrorEntry] = []


class Repository:
    """Requests to the repository of `target` under one credential. Not thread-safe; cheap to make."""

    def __init__(
        self, transport: Transport, target: Reference, credential: RegistryCredential, *, push: bool = False
    ) -> None:
        self._transport = transport
        self._target = target
        self._base = transport.base_url(target.domain)
        actions = "pull,push" if push else "pull"
        self._login = Login(transport, credential, scope=f"repository:{target.path}:{actions}", name=str(target))
        self._locations: dict[str, URL] = {}
        self.is_rangeless = False
        """A part of a blob was asked for, and the whole of it was sent."""

    @property
    def name(self) -> str:
        return str(self._target)

    async def manifest(self, tag_or_digest: str) -> Document:
        """The document under a tag or digest.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable, Integrity; InvalidInput: larger than a manifest may be.
        """
        url = self._url("manifests", tag_or_digest)
        response = await self._get(url, {"Accept": _ACCEPT})
        async with response:
            content = await read_limited(response, oci.MANIFEST_LIMIT_BYTES, self.name)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        expected = tag_or_digest if ":" in tag_or_digest else digest
        if not oci.is_sha256(expected):
            raise InvalidInput(f"{self.name}: only sha256 digests are supported", reason=PULL_REASON)
        if digest != expected:
            raise Integrity(
                f"{self.name}: the manifest has digest {digest}: damaged in the registry or on the way",
                expected=expected,
                actual=digest,
                reason=PULL_REASON,
            )
        return Document(_media_type(response, content), digest, content)

    async def document(self, descriptor: Descriptor) -> bytes:
        """A small blob as a whole, verified. The caller has limited its size."""
        async with self.blob(descriptor) as chunks:
            content = b"".join([chunk async for chunk in _limited(chunks, descriptor.size, self.name)])
        actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if actual != descriptor.digest:
            raise Integrity(
                f"{self.name}: blob {descriptor.digest} has digest {actual}: damaged in the registry or on the way",
                expected=descriptor.digest,
                actual=actual,
                reason=PULL_REASON,
            )
        return content

    @asynccontextmanager
    async def blob(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        """The blob's bytes as they come, unverified.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable; the last also while iterating.
        """
        url = self._url("blobs", descriptor.digest)
        response = await self._get(url, {})
        try:
            yield self._chunks(response)
        finally:
            response.close()  # not release: the rest of a blob that nobody wants is not to be read

    @asynccontextmanager
    async def blob_range(self, descriptor: Descriptor, start: int, end: int) -> AsyncIterator[BlobRange]:
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
        response = await self._located(descriptor.digest, headers)
        try:
            if response.status == 416:
                response.close()
                response = await self._located(descriptor.digest, {})
            begin = await self._begin(response, descriptor, start)
            self.is_rangeless |= ranged and response.status == 200
            yield BlobRange(begin, self._chunks(response))
        except Unavailable:
            self._locations.pop(descriptor.digest, None)
            raise
        finally:
            response.close()

    async def _begin(self, response: aiohttp.ClientResponse, descriptor: Descriptor, start: int) -> int:
        """Where the body begins. Raises what `blob_range` does for every answer that has none."""
        host = response.url.host_port_subcomponent or ""
        match response.status:
            case 200:
                self._check_size(descriptor, response.content_length)
                return 0
            case 206:
                found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != start or int(found[2]) < start:
                    raise Unavailable(f"{self.name}: {host} answers another range than asked for", reason=PULL_REASON)
                self._check_size(descriptor, None if found[3] == "*" else int(found[3]))
                return start
            case 429 | 503:
                wanted_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
                if wanted_s is not None or response.status == 429:
                    self._transport.holds.hold(host, RETRY_AFTER_DEFAULT_S if wanted_s is None else wanted_s)
        raise await self._error(response, "it")

    def _check_size(self, descriptor: Descriptor, actual: int | None) -> None:
        if actual is None or actual == descriptor.size:
            return
        is_longer = actual > descriptor.size
        what = f"is longer than its {descriptor.size} bytes" if is_longer else f"ends after {actual} bytes"
        raise Integrity(
            f"{self.name}: blob {descriptor.digest} {what}: damaged in the registry or on the way", reason=PULL_REASON
        )

    async def _located(self, digest: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Any answer but a redirect, from where the blob was last or else from where the registry says."""
        known = self._locations.get(digest)
        if known is not None:
            response = await self._send("GET", known, headers=headers, held=True)
            if response.status not in _STALE_LOCATION:
                return response
            response.close()
            if self._locations.get(digest) == known:
                del self._locations[digest]
        response = await self._follow(self._url("blobs", digest), headers, held=True)
        if response.url.origin() != self._base.origin():
            self._locations[digest] = response.url
        return response

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async with translated(self.name, response.url):
            # As the transport has read them: joining them would be one more copy of the whole image.
            async for chunk, _ in response.content.iter_chunks():
                if chunk:
                    yield chunk

    async def has_blob(self, digest: str) -> bool:
        response = await self._send("HEAD", self._url("blobs", digest))
        async with response:
            if response.status in (200, *_REDIRECTS):
                return True
            if response.status == 404:
                return False
            raise await self._error(response, f"blob {digest}")

    async def upload(
        self, file: BinaryIO, digest: str, size_bytes: int, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """Send a blob from `file` (from its start) in one streamed PUT. `advance` hears of bytes sent."""
        response = await self._send("POST", self._url("blobs", "uploads/"))
        async with response:
            if response.status != 202 or "Location" not in response.headers:
                raise await self._error(response, "an upload")
            location = response.url.join(URL(response.headers["Location"], encoded=True))
        self._transport.check_scheme(location, self.name)
        # Appended as text: the location may be signed, so not a character of it may change.
        separator = "&" if location.raw_query_string else "?"
        sent = await self._send(
            "PUT",
            URL(f"{location}{separator}digest={quote(digest)}", encoded=True),
            headers={"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"},
            body=lambda: _file_chunks(file, size_bytes, advance),
            read_timeout_s=UPLOAD_ANSWER_TIMEOUT_S,
        )
        async with sent:
            if sent.status != 201:
                raise await self._error(sent, f"blob {digest}")

    async def put_manifest(self, tag_or_digest: str, content: bytes, media_type: str) -> None:
        response = await self._send(
            "PUT",
            self._url("manifests", tag_or_digest),
            headers={"Content-Type": media_type},
            body=lambda: content,
        )
        async with response:
            if response.status != 201:
                raise await self._error(response, "the manifest")

    def _url(self, *parts: str) -> URL:
        return self._base / "v2" / self._target.path / "/".join(parts)

    async def _get(self, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """A response with status 200."""
        response = await self._follow(url, headers)
        if response.status != 200:
            async with response:
                raise await self._error(response, "it")
        return response

    async def _follow(self, url: URL, headers: Mapping[str, str], *, held: bool = False) -> aiohttp.ClientResponse:
        """Any answer but a redirect; redirects followed, the login kept from other hosts."""
        for _ in range(_REDIRECT_LIMIT + 1):
            response = await self._send("GET", url, headers=headers, held=held)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            url = response.url.join(URL(response.headers["Location"], encoded=True))
            response.release()
            self._transport.check_scheme(url, self.name)
        raise Unavailable(f"{self.name}: {url.host} redirects in circles", reason=PULL_REASON)

    async def _send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = lambda: None,
        held: bool = False,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """Send, and again after a challenge that can be answered. A final 401 of the registry is raised.

        `held` waits first while the host wants no requests.
        """
        ours = url.origin() == self._base.origin()
        got_own = False
        for attempt in range(1, _SEND_LIMIT + 1):
            if held:
                await self._transport.holds.passed(url.host_port_subcomponent or "")
            authorization = self._login.header if ours else None
            sent_headers = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            response = await self._transport.send(method, url, self.name, headers=sent_headers, data=body(), **options)
            if response.status != 401 or not ours:
                break
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            detail = await self._detail(response)
            response.release()
            if got_own or attempt == _SEND_LIMIT:
                raise self._login.refused(detail)
            answered = await self._login.answer(challenges, authorization)
            if answered is Answered.NOTHING_NEW:
                raise self._login.refused(detail)
            got_own = answered is Answered.ASKED
        return response

    async def _error(self, response: aiohttp.ClientResponse, what: str) -> Error:
        """The error that an answer means."""
        host = response.url.host_port_subcomponent
        detail = await self._detail(response)
        because = f": {detail}" if detail else ""
        match response.status:
            case 404:
                missing = "no such image" if what == "it" else f"{what} is missing"
                return NotFound(f"{self.name}: not found: {missing} at {host}{because}", reason=PULL_REASON)
            case 401 | 403:
                return Forbidden(f"{self.name}: {host} denies access to {what}{because}", reason=PULL_REASON)
            case 413:
                return InvalidInput(f"{self.name}: {host} finds {what} too large{because}", reason=PULL_REASON)
            case 429:
                return Unavailable(f"{self.name}: {host} limits the rate of requests{because}", reason=PULL_REASON)
            case status:
                return Unavailable(f"{self.name}: {host} answers {status} for {what}{because}", reason=PULL_REASON)

    async def _detail(self, response: aiohttp.ClientResponse) -> str:
        """What the registry says about it (distribution-spec, error codes); empty when it says nothing readable."""
        try:
            body = msgspec.json.decode(
                await read_limited(response, _ERROR_BODY_LIMIT_BYTES, self.name), type=_ErrorBody
            )
        except (msgspec.DecodeError, UnicodeDecodeError, Error):
            return ""
        return clip("; ".join(f"{entry.code} {entry.message}".strip() for entry in body.errors))


def _media_type(response: aiohttp.ClientResponse, content: bytes) -> str:
    """The document's own word where it has one: registries and proxies get the header wrong."""
    try:
        own = msgspec.json.decode(content, type=_Typed).media_type
    except (msgspec.DecodeError, UnicodeDecodeError):
        own = ""
    return own or response.content_type


class _Typed(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


async def _limited(chunks: AsyncIterator[bytes], limit_bytes: int, name: str) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            raise Integrity(f"{name}: a blob is longer than its {limit_bytes} bytes", reason=PULL_REASON)
        yield chunk


async def _file_chunks(file: BinaryIO, size_bytes: int, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    await run_blocking(file.seek, 0)
    left = size_bytes
    while left:
        chunk = await run_blocking(file.read, min(left, _UPLOAD_CHUNK_BYTES))
        if not chunk:
            raise Integrity(f"the file to upload is {left} bytes shorter than it was")
        yield chunk
        left -= len(chunk)
        advance(len(chunk))
