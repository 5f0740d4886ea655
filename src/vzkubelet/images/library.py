"""The virtual machine images of this host: found offline, pulled once, listed, removed."""

import functools
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from vzkubelet.aio import BlockingPool, run_blocking, traced, uninterrupted
from vzkubelet.errors import Error, Forbidden, InvalidInput, NotFound, Unauthenticated, clip
from vzkubelet.images import formats
from vzkubelet.images.description import choose, describe
from vzkubelet.images.fetches import FULL, LEAST_ROOM_BYTES, Fetches, MakeRoom, faults_named
from vzkubelet.images.formats import Artifact, Machine
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.images.registry import Document, Repository
from vzkubelet.images.store import Store
from vzkubelet.images.transport import Transport
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, parse
from vzkubelet.ports import MachineImage, PullProgress, RegistryCredential

_log = logging.getLogger(__name__)
ANONYMOUS = RegistryCredential()
Found = tuple[ReferenceRecord, ImageRecord]


class Library:
    """Implements `ports.MachineImages` on a directory, safe for several processes at once.

    `platforms` are what this host can run, the preferred one first; empty takes any (people's tools).
    """

    def __init__(
        self,
        root: Path,
        platforms: Sequence[Platform] = (),
        *,
        streams: int = 2,
        concurrency: int = 8,
        rate: RateLimit | None = None,
        supports: Callable[[bytes], str | None] | None = None,
        make_room: MakeRoom | None = None,
        plain_http: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`streams` = contents that are pulled at the same time, `concurrency` = requests at the same time for each.

        `supports` says why a hardware model (its data representation) cannot run here, None when it can; it is asked
        before the disk of a macOS image is moved. `make_room` is `Upkeep.make_room`; by default that of one that
        removes what nothing points to.
        """
        self._store = Store(root)
        self._platforms = tuple(platforms)
        self._supports = supports
        self._make_room = make_room or Upkeep(self._store).make_room
        self._verifying = BlockingPool("verify-images", 1)
        self._transport = Transport(plain_http=plain_http, tls=tls)
        self._fetches = Fetches(self._store, self._make_room, streams=streams, concurrency=concurrency, limit=rate)

    async def recover(self) -> None:
        """Remove what dead processes left. For the start of a daemon; what other processes pull is not touched."""
        with faults_named(str(self._store.root)):
            freed_bytes = await run_blocking(lambda: self._store.sweep(unreferenced_images=False))
        if freed_bytes:
            _log.info("removed %d bytes that interrupted pulls had left", freed_bytes)

    async def find(self, reference: str) -> MachineImage | None:
        target = parse(reference)
        with faults_named(reference):
            found, is_verified = await run_blocking(self._look, target)
            if not is_verified:
                # Reading a disk takes minutes: one after the other, and not in the threads that everybody needs.
                found = await self._verifying.run(self._store.find, target)
        if found is None or not self._runs_here(found[1].platform):
            return None
        return self._image(target, found[1])

    def _look(self, target: Reference) -> tuple[Found | None, bool]:
        """What is here, and whether nothing of it has to be verified first."""
        found = self._store.find(target, verify=False)
        if found is not None and not self._store.is_verified(found[1]):
            return found, False
        return self._store.find(target), True

    async def known(self, reference: str) -> MachineImage | None:
        """As `find`, for book-keeping: it is no use of the image, and nothing is verified for it."""
        target = parse(reference)
        with faults_named(reference):
            found = await run_blocking(lambda: self._store.find(target, verify=False))
        return None if found is None else self._image(target, found[1])

    def system_of(self, reference: str) -> str:
        """``os`` of an image that is here, else empty. Reads two small files."""
        try:
            found = self._store.find(parse(reference), verify=False)
        except (Error, OSError):
            return ""
        return "" if found is None else found[1].os

    async def pull(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[PullProgress], None] | None = None,
    ) -> MachineImage:
        target = parse(reference)
        refusals: list[Error] = []
        for credential in credentials or (ANONYMOUS,):
            try:
                with faults_named(str(target)), traced(_log, "pull", reference=str(target)):
                    return await self._pull(target, credential, progress or (lambda _: None))
            except (Unauthenticated, Forbidden, NotFound) as exc:
                # Not found as well: registries hide with it what a login may not see.
                refusals.append(exc)
        raise _summary(refusals)

    async def remove(self, reference: str) -> int:
        """Remove a reference and what only it used. Returns the bytes freed.

        Raises:
            NotFound: no such reference here.
        """
        target = parse(reference)
        with faults_named(reference):
            return await run_blocking(self._remove, target)

    async def close(self) -> None:
        self._store.close()
        await self._fetches.close()
        await self._transport.close()
        self._verifying.close()

    # --- Pull

    async def _pull(
        self, target: Reference, credential: RegistryCredential, progress: Callable[[PullProgress], None]
    ) -> MachineImage:
        repository = Repository(self._transport, target, credential)
        async with self._pulling(repository.name):
            root = await repository.manifest(target.digest or target.tag)
            document, _ = await choose(repository, root, self._platforms)
            record = await run_blocking(self._store.image, document.digest)
            if record is None:
                record = await self._pull_image(repository, target, document, progress)
            self._check_platform(record.platform, repository.name)
            now = datetime.fromtimestamp(int(time.time()), tz=UTC)
            pointer = ReferenceRecord(
                reference=str(target),
                repository=target.repository,
                resolved_digest=root.digest,
                manifest_digest=document.digest,
                pulled_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
            await run_blocking(self._store.commit_reference, target, pointer)
        return self._image(target, record)

    async def _pull_image(
        self,
        repository: Repository,
        target: Reference,
        document: Document,
        progress: Callable[[PullProgress], None],
    ) -> ImageRecord:
        found = await describe(repository, document)
        self._check(found.machine, repository.name)  # before the disk is moved
        aux, disk = await self._pull_contents(repository, target.repository, found.artifact, progress)
        record = ImageRecord.of(document.digest, found.machine, disk, aux)
        await run_blocking(self._store.commit_image, record, document.content)
        return record

    async def _pull_contents(
        self, repository: Repository, family: str, artifact: Artifact, progress: Callable[[PullProgress], None]
    ) -> list[ContentRecord]:
        total_bytes = artifact.total_bytes
        done: dict[int, int] = {}

        def report(position: int, done_bytes: int, stage: str) -> None:
            done[position] = done_bytes
            progress(PullProgress(sum(done.values()), total_bytes, stage))

        progress(PullProgress(0, total_bytes))
        return [
            await self._fetches.ensure(content, repository, family, functools.partial(report, position))
            for position, content in enumerate(artifact.contents)
        ]

    @asynccontextmanager
    async def _pulling(self, name: str) -> AsyncIterator[None]:
        """Nothing that this pull relies on is removed meanwhile."""
        with ExitStack() as held:
            try:
                try:
                    await self._hold(held)
                except OSError as exc:
                    if exc.errno not in FULL:
                        raise
                    await self._make_room(LEAST_ROOM_BYTES, name)
                    await self._hold(held)
                yield
            finally:
                await uninterrupted(run_blocking(held.close), name="end of a pull's claim")

    async def _hold(self, held: ExitStack) -> None:
        # Not to be abandoned with the claim made; it waits while somebody removes images.
        await uninterrupted(run_blocking(lambda: held.enter_context(self._store.pulling())), name="claim for a pull")

    def _runs_here(self, platform: Platform) -> bool:
        return not self._platforms or any(formats.fits(platform, wanted) for wanted in self._platforms)

    def _check_platform(self, platform: Platform, name: str) -> None:
        if not self._runs_here(platform):
            wanted = " or ".join(map(str, self._platforms))
            raise InvalidInput(
                f"{name} is an image for {clip(str(platform))}; this host runs {wanted}", reason=PULL_REASON
            )

    def _check(self, machine: Machine, name: str) -> None:
        self._check_platform(Platform(os=machine.os, architecture=machine.architecture), name)
        if self._supports is not None and machine.os == "darwin":
            why_not = self._supports(machine.hardware_model)
            if why_not is not None:
                raise InvalidInput(f"{name} cannot run on this host: {why_not}", reason=PULL_REASON)

    # --- The store as others see it

    def _image(self, target: Reference, record: ImageRecord) -> MachineImage:
        return record.image(
            str(target),
            target.repository,
            self._store.content_path(record.disk.digest),
            self._store.content_path(record.aux.digest),
            self._store.users_path(record.disk.digest),
        )

    def _remove(self, target: Reference) -> int:
        records = [record for record in self._store.references() if record.answers(target)]
        if not records:
            raise NotFound(f"{target} is not on this host: see macos-vz-kubelet image ls")
        return self._store.remove(records) + self._store.sweep(unreferenced_images=False)


def _summary(refusals: Sequence[Error]) -> Error:
    """One error for all logins that were tried; several texts in brackets, as the kubelet aggregates them."""
    texts = list(dict.fromkeys(str(refusal) for refusal in refusals))
    last = refusals[-1]
    if len(texts) == 1:
        return last
    summary = type(last)(f"[{', '.join(texts)}]", reason=last.reason)
    summary.__cause__ = last
    return summary
