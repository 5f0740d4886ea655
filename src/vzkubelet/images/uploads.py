"""Blobs on their way to a registry, in one piece or in chunks that a later process may go on with.

Source: distribution-spec v1.1, "Pushing a blob in chunks" and "Resuming an upload".
"""

import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import aiohttp
from yarl import URL

from vzkubelet.errors import Integrity, Unavailable
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.requests import Requests
from vzkubelet.images.transport import UPLOAD_ANSWER_TIMEOUT_S

_PIECE_BYTES = 1024 * 1024
"""Of a chunk, given to the transport at a time; it asks for pieces of large bodies."""
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")
_OCTETS = "application/octet-stream"


class Upload:
    """A session for one blob. After any failure `Repository.resume_upload` tells what the registry really has."""

    def __init__(self, requests: Requests, location: URL, chunk_min_bytes: int = 0) -> None:
        self._requests = requests
        self._location = location
        self.offset = 0
        """How many bytes the registry has said it has."""
        self.chunk_min_bytes = chunk_min_bytes
        """What the registry wants a chunk that is not the last one to have at least; 0 = it does not say."""

    @classmethod
    def begun(cls, requests: Requests, response: aiohttp.ClientResponse) -> "Upload":
        """From the 202 that answers a POST.

        Raises:
            Unavailable: it names no place; InvalidInput: one that nothing is sent to.
        """
        minimum = response.headers.get("OCI-Chunk-Min-Length", "")
        upload = cls(requests, response.url, int(minimum) if re.fullmatch("[0-9]{1,12}", minimum) else 0)
        if "Location" not in response.headers:
            raise Unavailable(f"{requests.name}: {response.url.host} begins no upload", reason=PULL_REASON)
        upload._moved(response)
        return upload

    @property
    def location(self) -> str:
        """Where to go on; it changes with every chunk. Whoever knows it may be able to write to the upload."""
        return str(self._location)

    async def send(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append one chunk; `offset` and `location` have moved on when this returns. Memory: none besides `chunk`.

        Raises:
            NotFound: the session is lost, begin anew. Unavailable: `resume_upload` may go on. Unauthenticated,
            Forbidden; InvalidInput: the chunk is larger than the registry takes.
        """
        if not chunk:
            return
        end = self.offset + len(chunk)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(len(chunk)),
            "Content-Range": f"{self.offset}-{end - 1}",
        }
        response = await self._requests.send(
            "PATCH",
            self._location,
            headers=headers,
            body=lambda: _pieces(chunk),
            read_timeout_s=UPLOAD_ANSWER_TIMEOUT_S,
        )
        async with response:
            if response.status not in (202, 204):
                raise await self._requests.error(response, "a chunk of an upload")
            self._moved(response)
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
            if found is not None and int(found[1]) + 1 != end:
                where = f"has {int(found[1]) + 1} bytes of an upload where {end} were sent"
                raise Unavailable(f"{self._requests.name}: {response.url.host} {where}", reason=PULL_REASON)
        self.offset = end

    async def finish(self, digest: str) -> None:
        """Have what was sent as a blob. The registry hashes all of it, which may take minutes.

        Raises:
            Integrity: what it got has another digest; begin anew. NotFound, Unauthenticated, Forbidden,
            Unavailable as `send`.
        """
        await self._put(digest, {"Content-Length": "0"}, lambda: None)

    async def send_all(self, body: Callable[[], AsyncIterator[bytes]], digest: str, size_bytes: int) -> None:
        """The whole blob in one streamed request. `body` makes it, from its start, as often as it is sent.

        Raises:
            As `finish`.
        """
        await self._put(digest, {"Content-Length": str(size_bytes), "Content-Type": _OCTETS}, body)

    async def find_offset(self) -> bool:
        """Ask the registry how far it has come; False = the session is lost.

        Raises:
            Unauthenticated, Unavailable.
        """
        self._requests.transport.check_scheme(self._location, self._requests.name)
        response = await self._requests.send("GET", self._location)
        async with response:
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
            if response.status >= 500 or response.status == 429:
                raise await self._requests.error(response, "an upload")
            if response.status not in (202, 204) or found is None:
                return False
            # "0-0" is what Distribution says for nothing, and nobody sends chunks of one byte.
            self.offset = 0 if found[1] == "0" else int(found[1]) + 1
            self._moved(response)
        return True

    async def _put(self, digest: str, headers: dict[str, str], body: Callable[[], AsyncIterator[bytes] | None]) -> None:
        # Appended as text: the location may be signed, so not a character of it may change.
        separator = "&" if self._location.raw_query_string else "?"
        url = URL(f"{self._location}{separator}digest={quote(digest)}", encoded=True)
        response = await self._requests.send(
            "PUT", url, headers=headers, body=body, read_timeout_s=UPLOAD_ANSWER_TIMEOUT_S
        )
        async with response:
            if response.status in (201, 204):
                return
            error = await self._requests.error(response, f"blob {digest}")
            if response.status == 400 and "DIGEST_INVALID" in str(error):
                raise Integrity(str(error), expected=digest, reason=PULL_REASON)
            raise error

    def _moved(self, response: aiohttp.ClientResponse) -> None:
        if "Location" in response.headers:
            self._location = self._requests.location(response)


async def _pieces(chunk: bytes | bytearray | memoryview) -> AsyncIterator[bytes]:
    view = memoryview(chunk)
    for position in range(0, len(view), _PIECE_BYTES):
        yield bytes(view[position : position + _PIECE_BYTES])
