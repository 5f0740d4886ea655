"""The repository that is pushed to: what it has is not sent, what breaks is sent again."""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from vzkubelet.aio import run_blocking
from vzkubelet.errors import Integrity, InvalidInput, NotFound, Unavailable
from vzkubelet.images.push.conveyor import stepped
from vzkubelet.images.push.courier import CarriedUpload, Courier
from vzkubelet.images.push.ledger import Ledger, UploadRecord
from vzkubelet.images.push.streams import Compressed, Compression, Part
from vzkubelet.images.registry import Repository
from vzkubelet.images.uploads import Upload
from vzkubelet.model import oci
from vzkubelet.model.reference import Reference

_log = logging.getLogger(__name__)
T = TypeVar("T")
AnyUpload = Upload | CarriedUpload
_BODY_BYTES = 1024 * 1024


class _SessionLost(Exception):
    """The registry knows nothing of an upload any more, or has other bytes than ours."""


@dataclass(slots=True)
class Figures:
    """Bytes of blobs."""

    uploaded_bytes: int = 0
    reused_bytes: int = 0


class Destination:
    """Belongs to one event loop; several blobs may be on their way at once."""

    def __init__(self, repository: Repository, target: Reference, courier: Courier | None = None) -> None:
        """`courier` carries streams; without one a killed push may have to send them again."""
        self.repository = repository
        self._carrier = courier or repository
        self.name = target.repository
        """``domain/path``."""
        self.figures = Figures()
        self._spare: Upload | None = None
        self._patience = repository.patience

    async def check(self) -> None:
        """Find out whether the login may push.

        Raises:
            Unauthenticated, Forbidden, Unavailable; NotFound: no such registry or project.
        """
        self._spare = await self._patiently(self.repository.begin_upload)

    async def document(self, content: bytes) -> str:
        """Have a small blob there; returns its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if not await self.has(digest, len(content)):
            await self.put(content, digest)
        return digest

    async def has(self, digest: str, size_bytes: int, elsewhere: Sequence[str] = ()) -> bool:
        """Whether the blob is there, or can be taken over from one of the repositories (``domain/path``) `elsewhere`.

        Raises:
            Unauthenticated, Forbidden, Unavailable.
        """
        found = await self._patiently(lambda: self.repository.has_blob(digest))
        for place in elsewhere if not found else ():
            domain, _, path = place.partition("/")
            if place == self.name or domain != self.name.partition("/")[0]:
                continue
            found = await self._patiently(partial(self.repository.mount, digest, path))
            if found:
                break
        if found:
            self.figures.reused_bytes += size_bytes
        return found

    async def put(self, content: bytes, digest: str) -> None:
        """Send a blob that is in memory."""

        async def body() -> AsyncIterator[bytes]:
            for start in range(0, len(content), _BODY_BYTES):
                yield content[start : start + _BODY_BYTES]
                self.figures.uploaded_bytes += len(content[start : start + _BODY_BYTES])

        async def send() -> None:
            upload = await self._begin()
            await upload.send_all(body, digest, len(content))

        await self._patiently(send)

    async def put_manifest(self, tag: str, manifest: bytes) -> None:
        await self._patiently(lambda: self.repository.put_manifest(tag, manifest, oci.MANIFEST))

    async def stream(
        self,
        compress: Callable[[], Compression[Any]],
        ledger: Ledger | None,
        *,
        interrupt: Callable[[], None] = lambda: None,
    ) -> Compressed:
        """Send a stream while it is made; its digest is known at its end.

        `compress` makes it, always with the same bytes: an upload that broke off goes on where the registry has got
        to, also one of a process that died and left a `ledger`. A stream of one part is only sent when it is missing.

        Raises:
            What `compress` raises in its thread; Unauthenticated, Forbidden, Unavailable.
        """
        upload, record = await self._left_over(ledger)
        for failures in range(self._patience.attempts):
            try:
                return await self._stream(compress(), _Session(upload, record), ledger, interrupt)
            except _SessionLost as exc:
                _log.warning("%s: an upload was lost and starts anew: %s", self.name, exc)
                lost = exc
                upload = record = None
                await asyncio.sleep(self._delay_s(failures))
        raise Unavailable(f"{self.name}: the registry loses uploads: {lost}; try again later") from lost

    async def _stream(
        self, compression: Compression[Any], session: "_Session", ledger: Ledger | None, interrupt: Callable[[], None]
    ) -> Compressed:
        steps = stepped(compression.parts(), name=f"push to {self.name}", interrupt=interrupt)
        async with aclosing(steps) as parts:
            part = await anext(parts)
            while (following := await anext(parts, None)) is not None:
                if session.upload is None:
                    session.upload = await self._patiently(self._carrier.begin_upload)
                if len(part.data) < session.begun.chunk_min_bytes:
                    part = Part(part.data + following.data, following.end, following.digest)
                    continue
                await self._send(part, session, ledger)
                part = following
            compressed = compression.compressed
            assert compressed is not None
            if session.upload is None:
                if not await self.has(compressed.digest, compressed.size_bytes):
                    await self.put(part.data, compressed.digest)
                return compressed
            await self._send(part, session, ledger)
        await self._finish(session, compressed)
        return compressed

    async def _send(self, part: Part, session: "_Session", ledger: Ledger | None) -> None:
        """Append what the registry does not have yet of a part, however often the connection breaks."""
        start = part.end - len(part.data)
        digest = await asyncio.wrap_future(part.digest)
        session.check(part.end, digest)
        failures = 0
        while (upload := session.begun).offset < part.end:
            if upload.offset < start:
                raise _SessionLost(f"it has {upload.offset} bytes, not the {start} that it had confirmed")
            rest = memoryview(part.data)[upload.offset - start :]
            try:
                if isinstance(upload, CarriedUpload):
                    await upload.send(rest, None if ledger is None else (ledger, digest))
                else:
                    await upload.send(rest)
                self.figures.uploaded_bytes += len(rest)
            except NotFound as exc:
                raise _SessionLost(str(exc)) from exc
            except Unavailable as exc:
                failures += 1
                await self._bear(exc, failures)
                await self._go_on(session, exc)
        if ledger is not None and not isinstance(session.begun, CarriedUpload):
            record = UploadRecord(location=session.begun.location, offset=part.end, digest=digest)
            await run_blocking(ledger.set_upload, record)

    async def _go_on(self, session: "_Session", cause: Exception) -> None:
        location = session.begun.location
        session.upload = await self._patiently(lambda: self._carrier.resume_upload(location))
        if session.upload is None:
            raise _SessionLost(str(cause)) from cause

    async def _finish(self, session: "_Session", compressed: Compressed) -> None:
        failures = 0
        while True:
            if session.begun.offset != compressed.size_bytes:
                raise _SessionLost(f"it has {session.begun.offset} bytes of {compressed.size_bytes}")
            try:
                return await session.begun.finish(compressed.digest)
            except (NotFound, Integrity) as exc:
                raise _SessionLost(str(exc)) from exc
            except Unavailable as exc:
                failures += 1
                await self._bear(exc, failures)
                if await self._patiently(lambda: self.repository.has_blob(compressed.digest)):
                    return None  # only the answer was lost
                await self._go_on(session, exc)

    async def _begin(self) -> Upload:
        spare, self._spare = self._spare, None
        return spare or await self.repository.begin_upload()

    async def _left_over(self, ledger: Ledger | None) -> tuple[AnyUpload | None, UploadRecord | None]:
        """The upload that a process which died had begun, if the registry still knows it."""
        record = await run_blocking(ledger.upload) if ledger is not None else None
        if record is None:
            return None, None
        location = record.location
        try:
            upload = await self._patiently(lambda: self._carrier.resume_upload(location))
        except InvalidInput:  # a place that nothing is sent to any more
            upload = None
        if upload is None or upload.offset < record.offset:
            _log.info("%s: the upload that was interrupted is lost, another one begins", self.name)
            return None, None
        _log.info("%s: an upload that was interrupted goes on after %d bytes", self.name, upload.offset)
        self.figures.reused_bytes += upload.offset
        return upload, record

    async def _patiently(self, request: Callable[[], Awaitable[T]]) -> T:
        """Ask again when the registry is not available, a bounded number of times."""
        failures = 0
        while True:
            try:
                return await request()
            except Unavailable as exc:
                failures += 1
                await self._bear(exc, failures)

    async def _bear(self, exc: Unavailable, failures: int) -> None:
        """Wait before the next attempt after so many failures; raises `exc` when there is none."""
        if failures == self._patience.attempts:
            raise exc
        _log.warning("%s; trying again", exc)
        await asyncio.sleep(self._delay_s(failures - 1))

    def _delay_s(self, failures: int) -> float:
        delay_s = min(self._patience.delay_s * 2.0**failures, self._patience.delay_max_s)
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


class _Session:
    """An upload that one stream goes to, and what an earlier process knew of it."""

    def __init__(self, upload: AnyUpload | None, record: UploadRecord | None) -> None:
        self.upload = upload
        self._record = record

    @property
    def begun(self) -> AnyUpload:
        assert self.upload is not None
        return self.upload

    def check(self, end: int, digest: str) -> None:
        """Raises _SessionLost when the stream is another one than the registry has the start of."""
        if self._record is not None and self._record.offset == end and self._record.digest != digest:
            raise _SessionLost("what was sent before came from another file or another compressor")
