"""Files of a virtual machine to a registry, in the agoda format.

One pass over each file: thread 1 reads (holes are not read) and hashes the content, thread 2 compresses, hashes the
blob and writes it to an unnamed temporary file, from which it is uploaded unless the registry has it already.
"""

import asyncio
import errno
import hashlib
import io
import os
import queue
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vzkubelet.aio import BlockingPool, run_blocking, spawn, uninterrupted
from vzkubelet.errors import Conflict, InvalidInput, NotFound, Unavailable, Unsupported
from vzkubelet.files import open_regular
from vzkubelet.images.fetches import faults_named
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.agoda import CompressedFile
from vzkubelet.images.formats.artifact import Machine
from vzkubelet.images.gzip_stream import Deflater
from vzkubelet.images.push.request import Listener, PushProgress, PushRequest, PushResult
from vzkubelet.images.registry import Repository
from vzkubelet.images.sparse import read_blocks
from vzkubelet.images.transport import Transport
from vzkubelet.model import oci
from vzkubelet.model.oci import Descriptor, Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

_BLOCKS = 16


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
        self._temporary = root / "uploads"
        self._credential = credential
        self._transport = Transport(plain_http=plain_http, tls=tls)
        self._progress = progress

    async def push(self, request: PushRequest, targets: Sequence[Reference]) -> PushResult:
        """Push under every tag of `targets`, which are of one repository.

        Raises:
            InvalidInput, NotFound, Unauthenticated, Forbidden, Unavailable, Exhausted; Conflict: a file changed.
        """
        _check(request.machine)
        for path in (request.disk, request.aux):
            await run_blocking(check_file, path)
        repository = Repository(self._transport, targets[0], self._credential, push=True)
        config = agoda.write_config(request.machine)
        image_config = agoda.write_image_config(request.machine, request.image_config)
        with faults_named(str(self._temporary)):
            await run_blocking(lambda: self._temporary.mkdir(parents=True, exist_ok=True))
        # The small files first: a missing permission shows before hours of compression.
        await self._push_document(repository, oci.EMPTY_JSON)
        config_digest = await self._push_document(repository, config)
        extra = None
        if image_config is not None:
            image_digest = await self._push_document(repository, image_config)
            extra = Descriptor(media_type=oci.IMAGE_CONFIG, digest=image_digest, size=len(image_config))
        disk = await self._push_file(repository, request.disk, agoda.DISK_TITLE)
        aux = await self._push_file(repository, request.aux, agoda.AUX_TITLE)
        titled = Descriptor(
            media_type=agoda.CONFIG,
            digest=config_digest,
            size=len(config),
            annotations={oci.TITLE: agoda.CONFIG_TITLE},
        )
        manifest = agoda.write_manifest(request.machine, disk, aux, titled, extra, request.created)
        for target in targets:
            await repository.put_manifest(target.tag, manifest, oci.MANIFEST)
        return PushResult(f"sha256:{hashlib.sha256(manifest).hexdigest()}", 0, 0)

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
        raise Unsupported(f"converting to {format} is not offered yet")

    async def close(self) -> None:
        await self._transport.close()

    async def _push_document(self, repository: Repository, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if not await repository.has_blob(digest):
            await repository.upload(io.BytesIO(content), digest, len(content))
        return digest

    async def _push_file(self, repository: Repository, path: Path, title: str) -> CompressedFile:
        with faults_named(str(self._temporary)):
            blob = tempfile.TemporaryFile(dir=self._temporary)  # noqa: SIM115 - closed below
        # It has no name, so nothing is left behind however this process ends.
        with blob:
            compressed = await _Compression(
                path, blob, lambda done, of: self._report("compress", title, done, of)
            ).run()
            if not await repository.has_blob(compressed.digest):
                sent = 0

                def advance(size_bytes: int) -> None:
                    nonlocal sent
                    sent += size_bytes
                    self._report("upload", title, sent, compressed.size_bytes)

                await repository.upload(blob, compressed.digest, compressed.size_bytes, advance)
        return compressed

    def _report(self, stage: str, title: str, done_bytes: int, total_bytes: int) -> None:
        self._progress(PushProgress(f"{stage} {title}", done_bytes, total_bytes))


class _Compression:
    """One file into one blob with two threads; see `receiver` for the same the other way round."""

    def __init__(self, path: Path, blob: BinaryIO, advance: Callable[[int, int], None]) -> None:
        self._path = path
        self._blob = blob
        self._advance = advance
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_BLOCKS)
        self._failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._raw_digest = self._digest = ""
        self._raw_size_bytes = self._size_bytes = 0

    async def run(self) -> CompressedFile:
        pool = BlockingPool("push", 2)
        stages = [
            spawn(pool.run(stage), name=f"{stage.__name__} {self._path}")
            for stage in (self._read_stage, self._compress_stage)
        ]
        try:
            await asyncio.shield(asyncio.gather(*stages))
        except BaseException as exc:
            self._fail(exc)
            raise
        finally:
            await uninterrupted(_ended(stages), name=f"end of compression {self._path}")
            pool.close()
        if self._failure is not None:
            raise self._failure
        return CompressedFile(self._digest, self._size_bytes, self._raw_digest, self._raw_size_bytes)

    def _fail(self, exc: BaseException) -> None:
        if self._failure is None:
            self._failure = exc

    def _read_stage(self) -> None:
        try:
            self._read()
        except BaseException as exc:  # noqa: BLE001 - carried to the event loop
            self._fail(exc)
        self._blocks.put(None)

    def _compress_stage(self) -> None:
        blocks = iter(self._blocks.get, None)
        try:
            with faults_named(f"temporary file for {self._path}"):
                self._compress(blocks)
        except BaseException as exc:  # noqa: BLE001 - carried to the event loop
            self._fail(exc)
        for _ in blocks:
            pass

    def _read(self) -> None:
        try:
            with _opened(self._path) as file:
                self._read_file(file.fileno())
        except (OSError, EOFError) as exc:
            raise Unavailable(f"cannot read {self._path}: {exc}") from exc

    def _read_file(self, descriptor: int) -> None:
        before = os.fstat(descriptor)
        if not before.st_size:
            raise InvalidInput(f"{self._path} is empty")
        hasher, done = hashlib.sha256(), 0
        for block in read_blocks(descriptor, before.st_size):
            if self._failure is not None:
                return
            hasher.update(block)
            self._blocks.put(block)
            done += len(block)
            self._loop.call_soon_threadsafe(self._advance, done, before.st_size)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Conflict(f"{self._path} was written to while it was read: stop its virtual machine first")
        self._raw_digest, self._raw_size_bytes = f"sha256:{hasher.hexdigest()}", before.st_size

    def _compress(self, blocks: Iterator[bytes]) -> None:
        deflater, hasher = Deflater(), hashlib.sha256()
        for block in blocks:
            if self._failure is not None:
                return
            self._write(deflater.feed(block), hasher)
        self._write(deflater.finish(), hasher)
        self._blob.flush()
        self._digest = f"sha256:{hasher.hexdigest()}"

    def _write(self, compressed: bytes, hasher: "hashlib._Hash") -> None:
        hasher.update(compressed)
        self._size_bytes += self._blob.write(compressed)


def check_file(path: Path) -> None:
    """Raises: NotFound, InvalidInput, Unavailable: what a push would say after hours about this file."""
    with _opened(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise InvalidInput(f"{path} is empty")


def _opened(path: Path) -> BinaryIO:
    try:
        return os.fdopen(open_regular(path), "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"{path} does not exist") from exc
    except OSError as exc:
        kind = InvalidInput if exc.errno == errno.EINVAL else Unavailable
        raise kind(f"cannot read {path}: {exc.strerror}") from exc


async def _ended(stages: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.wait(stages)


def _check(machine: Machine) -> None:
    if machine.os == "darwin" and not (machine.hardware_model and machine.machine_id):
        raise InvalidInput("a macOS image needs --hardware-model and --machine-id: the guest does not boot without")
