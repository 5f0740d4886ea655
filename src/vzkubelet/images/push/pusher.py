"""Files of a virtual machine, or an image in another format, to a registry."""

import contextlib
import hashlib
import logging
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.aio import run_blocking, traced, uninterrupted
from vzkubelet.errors import InvalidInput
from vzkubelet.images import formats, gzip_encoder
from vzkubelet.images.fetches import faults_named
from vzkubelet.images.formats import agoda as agoda_format
from vzkubelet.images.formats import chunked as chunked_format
from vzkubelet.images.formats import tart as tart_format
from vzkubelet.images.formats.artifact import Chunked, Content, Encoding, Machine, Stream, Streams, single
from vzkubelet.images.push import agoda, chunked, conversion, packs, tart, versions
from vzkubelet.images.push.courier import Courier
from vzkubelet.images.push.destination import Destination
from vzkubelet.images.push.history import History
from vzkubelet.images.push.job import Job
from vzkubelet.images.push.ledger import Ledgers
from vzkubelet.images.push.request import FORMATS, Listener, PushRequest, PushResult
from vzkubelet.images.push.sources import FileSource, Source
from vzkubelet.images.push.versions import AUX, DISK, Version
from vzkubelet.images.registry import Repository
from vzkubelet.images.store import Store
from vzkubelet.images.transport import Transport
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Image:
    """What is pushed, wherever it comes from."""

    disk: Source
    aux: Source
    machine: Machine
    image_config: Mapping[str, object] | None
    created: str | None
    format: str
    base: Reference | None
    level: int | None


class Pusher:
    """Pushes and converts under one login. `root` is the store's: sources of conversions are looked up in it, and
    what was pushed is remembered in its ``uploads`` directory."""

    def __init__(
        self,
        root: Path,
        credential: RegistryCredential,
        *,
        plain_http: bool = False,
        tls: ssl.SSLContext | None = None,
        progress: Listener,
    ) -> None:
        self._root = root
        self._uploads = root / "uploads"
        self._history = History(self._uploads)
        self._ledgers = Ledgers(self._uploads / "ledgers")
        self._credential = credential
        self._transport = Transport(plain_http=plain_http, tls=tls)
        self._plain_http = plain_http
        self._has_tls = tls is not None
        self._progress = progress

    async def push(self, request: PushRequest, targets: Sequence[Reference]) -> PushResult:
        """Push under every tag of `targets`, which are of one repository.

        Cancelling leaves what a later push of the same files goes on from, as killing the process does.

        Raises:
            InvalidInput, NotFound, Unauthenticated, Forbidden, Unavailable, Exhausted; Conflict: a file changed.
        """
        with ExitStack() as opened:
            disk = opened.enter_context(await run_blocking(FileSource, request.disk))
            aux = opened.enter_context(await run_blocking(FileSource, request.aux))
            image = _Image(
                disk=disk,
                aux=aux,
                machine=request.machine,
                image_config=request.image_config,
                created=request.created,
                format=request.format,
                base=request.base,
                level=request.level,
            )
            return await self._push(image, targets)

    async def convert(
        self,
        source: Reference,
        targets: Sequence[Reference],
        *,
        format: str,  # noqa: A002 - the word of the command line
        base: Reference | None = None,
        level: int | None = None,
        created: str | None = None,
        credentials: Sequence[RegistryCredential] = (),
        platforms: Sequence[Platform] = (),
    ) -> PushResult:
        """Push `source` in another format: out of the store where it is there, else as a stream from its registry.

        `credentials` are those for the source; `platforms` choose from an index, empty takes any.

        Raises:
            As `push`; Integrity: the source is damaged.
        """
        store = Store(self._root)
        async with AsyncExitStack() as held:
            original = await held.enter_async_context(conversion.from_store(store, source))
            if original is None:
                remote = conversion.from_registry(self._transport, source, credentials, platforms)
                original = await held.enter_async_context(remote)
            image = _Image(
                disk=original.disk,
                aux=original.aux,
                machine=original.machine,
                image_config=original.image_config,
                created=created,
                format=format,
                base=base,
                level=level,
            )
            return await self._push(image, targets)

    async def close(self) -> None:
        await self._transport.close()

    async def _push(self, image: _Image, targets: Sequence[Reference]) -> PushResult:
        _check(image)
        repository = Repository(self._transport, targets[0], self._credential, push=True)
        # A courier would have to be told of the trust in certificates, which cannot be handed to another process.
        courier = None
        if not self._has_tls:
            courier = Courier(str(targets[0]), self._credential, plain_http=self._plain_http)
        destination = Destination(repository, targets[0], courier)
        job = Job(destination, self._history, self._ledgers, self._progress)
        try:
            return await self._push_to(destination, job, repository, image, targets)
        finally:
            if courier is not None:
                await uninterrupted(courier.close(), name="end of courier")

    async def _push_to(
        self, destination: Destination, job: Job, repository: Repository, image: _Image, targets: Sequence[Reference]
    ) -> PushResult:
        with faults_named(str(self._uploads)), traced(_log, "push", reference=str(targets[0])):
            await run_blocking(self._ledgers.sweep)
            # A missing permission shows before hours of compression.
            await destination.check()
            older = await self._older(image, repository, targets[0])
            aux = await _write(job, image.aux, AUX, older, image)
            disk = await _write(job, image.disk, DISK, older, image)
            written = await run_blocking(
                lambda: formats.WRITABLE[image.format].write(
                    image.machine, disk, aux, image_config=image.image_config, created=image.created
                )
            )
            for document in written.documents:
                await destination.document(document)
            for target in targets:
                await destination.put_manifest(target.tag, written.manifest)
            digest = f"sha256:{hashlib.sha256(written.manifest).hexdigest()}"
            if image.format == chunked_format.NAME:
                with contextlib.suppress(OSError):  # it is only a memory
                    await run_blocking(self._history.set_image, targets[0].repository, digest)
        return PushResult(digest, destination.figures.uploaded_bytes, destination.figures.reused_bytes)

    async def _older(self, image: _Image, repository: Repository, target: Reference) -> list[Version]:
        """Versions whose blobs may be used again, the preferred one first."""
        found: list[Version | None] = []
        if image.base is not None:
            given = await versions.find(self._repository(image.base, target), image.base)
            if image.format == chunked_format.NAME and not isinstance(given.artifact.disk.layout, Chunked):
                raise InvalidInput(
                    f"{image.base} is not in the chunked format, so nothing of it can be used again: "
                    "convert it, or push without a base"
                )
            found.append(given)
        found.append(await versions.look(repository, target))
        digests = await run_blocking(self._known_here, target)
        here = [Reference(target.domain, target.path, digest=digest) for digest in digests]
        found += [await versions.look(repository, reference) for reference in here]
        return [version for version in found if version is not None]

    def _known_here(self, target: Reference) -> list[str]:
        """Manifests of the repository that this host has pushed or pulled last: a new version is often made of one."""
        pulled = [record for record in Store(self._root).references() if record.repository == target.repository]
        newest = max(pulled, key=lambda record: record.pulled_at, default=None)
        digests = [self._history.image(target.repository), newest.manifest_digest if newest is not None else None]
        return list(dict.fromkeys(digest for digest in digests if digest))

    def _repository(self, base: Reference, target: Reference) -> Repository:
        """The login is for the target's registry, and is not shown to another one."""
        credential = self._credential if base.domain == target.domain else RegistryCredential()
        return Repository(self._transport, base, credential)


async def _write(job: Job, source: Source, title: str, older: Sequence[Version], image: _Image) -> Content:
    known = versions.known(older, title)
    match image.format:
        case agoda_format.NAME:
            return await agoda.write_content(job, source, title, known, image.level)
        case tart_format.NAME if title == DISK:
            return await tart.write_disk(job, source, title, known)
        case tart_format.NAME:
            return await tart.write_nvram(job, source, title, known)
        case _:
            return await chunked.write_content(job, source, title, await versions.base(older, title), image.level)


def _check(image: _Image) -> None:
    """Find what is wrong with the request before anything is read or sent.

    Raises:
        InvalidInput.
    """
    if image.format not in FORMATS:
        raise InvalidInput(f"{image.format} is not a format that is written: {', '.join(FORMATS)} are")
    levels = packs.LEVELS if image.format == chunked_format.NAME else gzip_encoder.LEVELS
    if image.level is not None and image.level not in levels:
        raise InvalidInput(f"level {image.level} is not between {levels[0]} and {levels[-1]}")
    blob = Descriptor(media_type=oci.EMPTY, digest=oci.EMPTY_DIGEST, size=len(oci.EMPTY_JSON))
    formats.WRITABLE[image.format].write(
        image.machine, _like(image.format, DISK, blob), _like(image.format, AUX, blob), image_config=image.image_config
    )


def _like(format_: str, title: str, blob: Descriptor) -> Content:
    """A content as the format has it, so that everything else can be tried."""
    match format_:
        case chunked_format.NAME:
            return Content(1, None, Chunked(blob, ()))
        case tart_format.NAME:
            encoding = Encoding.APPLE_LZ4 if title == DISK else Encoding.IDENTITY
            return Content(1, blob.digest, Streams((Stream((blob,), encoding, 0, 1, blob.digest),)))
        case _:
            return single(blob, Encoding.GZIP, 1, blob.digest)
