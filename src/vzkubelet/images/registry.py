"""One repository of a registry: manifests and blobs, in and out (OCI distribution-spec v1.1)."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import msgspec
from yarl import URL

from vzkubelet.errors import Forbidden, Integrity, InvalidInput, Unauthenticated, Unavailable
from vzkubelet.images.blobs import Blobs
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.patience import Patience, Tries
from vzkubelet.images.requests import REDIRECTS, Requests
from vzkubelet.images.transport import Transport, read_limited
from vzkubelet.images.uploads import Upload
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

_ACCEPT = ", ".join((oci.MANIFEST, oci.INDEX, oci.DOCKER_MANIFEST, oci.DOCKER_MANIFEST_LIST))


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as the registry holds it; `content` has been checked against `digest`."""

    media_type: str
    digest: str
    content: bytes


class Repository:
    """Requests to the repository of `target` under one credential. Not thread-safe; cheap to make."""

    def __init__(
        self, transport: Transport, target: Reference, credential: RegistryCredential, *, push: bool = False
    ) -> None:
        self._requests = Requests(transport, target, credential, push=push)
        self.blobs = Blobs(self._requests)
        self._begun: Upload | None = None

    @property
    def name(self) -> str:
        return self._requests.name

    @property
    def patience(self) -> Patience:
        return self._requests.transport.patience

    async def manifest(self, tag_or_digest: str) -> Document:
        """The document under a tag or digest.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable, Integrity; InvalidInput: larger than a manifest may be.
        """
        url = self._requests.url("manifests", tag_or_digest)
        response = await self._requests.get(url, {"Accept": _ACCEPT})
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
        """A small blob as a whole, verified, tried again as ranges are. The caller has limited its size.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable, Integrity.
        """
        tries = Tries(self.patience)
        while True:
            try:
                timeout_s = self.patience.read_timeout_s
                async with self.blobs.range(descriptor, 0, descriptor.size, read_timeout_s=timeout_s) as answer:
                    chunks = _limited(answer.chunks, descriptor.size, self.name)
                    content = b"".join([chunk async for chunk in chunks])
                break
            except Unavailable as exc:
                await tries.failed(exc)
        actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if actual != descriptor.digest:
            raise Integrity(
                f"{self.name}: blob {descriptor.digest} has digest {actual}: damaged in the registry or on the way",
                expected=descriptor.digest,
                actual=actual,
                reason=PULL_REASON,
            )
        return content

    async def has_blob(self, digest: str) -> bool:
        response = await self._requests.send("HEAD", self._requests.url("blobs", digest))
        async with response:
            if response.status in (200, *REDIRECTS):
                return True
            if response.status == 404:
                return False
            raise await self._requests.error(response, f"blob {digest}")

    # --- Uploads

    async def mount(self, digest: str, from_repository: str) -> bool:
        """Have a blob of another repository of the same registry here without sending it; False = send it.

        `from_repository` is a path as in a reference, ``team/vm``.

        Raises:
            Unavailable. What the login may not see or do is False.
        """
        query = {"mount": digest, "from": from_repository}
        login = self._requests.wider_login(f"repository:{from_repository}:pull")
        url = self._requests.url("blobs", "uploads/").with_query(query)
        try:
            response = await self._requests.send("POST", url, login=login)
        except (Unauthenticated, Forbidden):
            return False
        async with response:
            if response.status == 202:  # a session for an upload instead; it costs nothing and is used by the next one
                self._begun = Upload.begun(self._requests, response)
            if response.status >= 500 or response.status == 429:
                raise await self._requests.error(response, f"a mount of blob {digest}")
            return response.status == 201

    async def begin_upload(self) -> Upload:
        """A new upload; nothing has to be done to abandon it.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable.
        """
        begun, self._begun = self._begun, None
        if begun is not None:
            return begun
        response = await self._requests.send("POST", self._requests.url("blobs", "uploads/"))
        async with response:
            if response.status != 202:
                raise await self._requests.error(response, "an upload")
            return Upload.begun(self._requests, response)

    async def resume_upload(self, location: str) -> Upload | None:
        """The upload that had this `Upload.location`, as far as the registry has got it; None = it is lost.

        CNCF Distribution keeps one only when the last chunk that was sent to it had been answered.

        Raises:
            Unauthenticated, Unavailable.
        """
        upload = Upload(self._requests, URL(location, encoded=True))
        return upload if await upload.find_offset() else None

    async def put_manifest(self, tag_or_digest: str, content: bytes, media_type: str) -> None:
        response = await self._requests.send(
            "PUT",
            self._requests.url("manifests", tag_or_digest),
            headers={"Content-Type": media_type},
            body=lambda: content,
        )
        async with response:
            if response.status != 201:
                raise await self._requests.error(response, "the manifest")


def _media_type(response: aiohttp.ClientResponse, content: bytes) -> str:
    """The document's own word where it has one: registries and proxies get the header wrong."""
    try:
        own = msgspec.json.decode(content, type=_Typed).media_type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
