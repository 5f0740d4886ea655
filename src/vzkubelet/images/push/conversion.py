"""The image that a conversion starts from: out of the store of this host, else out of its registry."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from vzkubelet.aio import run_blocking, uninterrupted
from vzkubelet.errors import Error, Forbidden, NotFound, Unauthenticated
from vzkubelet.images.description import choose, describe
from vzkubelet.images.formats import chunked
from vzkubelet.images.formats.artifact import Chunked, Content, Machine
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.push.remote import RemoteSource
from vzkubelet.images.push.sources import FileSource, Source
from vzkubelet.images.records import ContentKind, ContentRecord
from vzkubelet.images.registry import Document, Repository
from vzkubelet.images.store import Store
from vzkubelet.images.transport import Transport
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential


@dataclass(frozen=True, slots=True)
class Original:
    disk: Source
    aux: Source
    machine: Machine
    image_config: Mapping[str, object] | None


@asynccontextmanager
async def from_store(store: Store, reference: Reference) -> AsyncIterator[Original | None]:
    """The image as it was pulled; None when it is not there. It is not removed meanwhile."""
    async with AsyncExitStack() as held:
        claim = store.pulling()

        async def enter() -> None:
            await run_blocking(claim.__enter__)
            held.push_async_callback(run_blocking, claim.__exit__, None, None, None)

        if not await run_blocking(store.root.is_dir):
            yield None
            return
        await uninterrupted(enter(), name="claim for a conversion")
        found = await run_blocking(store.find, reference)
        if found is None:
            yield None
            return
        _, record = found
        disk = held.enter_context(await run_blocking(_stored, store, record.disk))
        aux = held.enter_context(await run_blocking(_stored, store, record.aux))
        yield Original(disk, aux, record.machine, None)


@asynccontextmanager
async def from_registry(
    transport: Transport,
    reference: Reference,
    credentials: Sequence[RegistryCredential],
    platforms: Sequence[Platform],
) -> AsyncIterator[Original]:
    """The image as its registry holds it; nothing of it is kept.

    Raises:
        InvalidInput, NotFound, Unauthenticated, Forbidden, Unavailable, Integrity, Unsupported.
    """
    repository, root = await _resolved(transport, reference, credentials)
    document, _ = await choose(repository, root, platforms)
    found = await describe(repository, document)
    async with AsyncExitStack() as opened:
        sources = []
        for content in (found.artifact.disk, found.artifact.aux):
            source = RemoteSource(content, await _index(repository, content), repository)
            opened.push_async_callback(run_blocking, source.close)
            sources.append(source)
        yield Original(sources[0], sources[1], found.machine, _besides(found.image_config))


def _stored(store: Store, content: ContentRecord) -> FileSource:
    record = store.contents.record(content.digest)
    is_raw = record is not None and record.kind is ContentKind.RAW
    return FileSource(store.content_path(content.digest), content.digest if is_raw else None)


async def _resolved(
    transport: Transport, reference: Reference, credentials: Sequence[RegistryCredential]
) -> tuple[Repository, Document]:
    """Each login is tried, as for a pull."""
    refusal: Error | None = None
    for credential in credentials or (RegistryCredential(),):
        repository = Repository(transport, reference, credential)
        try:
            return repository, await repository.manifest(reference.digest or reference.tag)
        except (Unauthenticated, Forbidden, NotFound) as exc:
            refusal = exc
    assert refusal is not None
    raise refusal


async def _index(repository: Repository, content: Content) -> ChunkIndex | None:
    if not isinstance(content.layout, Chunked):
        return None
    document = await repository.document(content.layout.index)
    return await run_blocking(chunked.read_index, content, document, repository.name)


def _besides(image_config: bytes | None) -> Mapping[str, object] | None:
    """What an image config says that `Machine` does not know; the labels are in there."""
    if image_config is None:
        return None
    document: dict[str, object] = msgspec.json.decode(image_config, type=dict[str, object])
    details = document.get("config")
    if isinstance(details, dict):
        document["config"] = {key: value for key, value in details.items() if key != "Labels"}
        if not document["config"]:
            del document["config"]
    return document if document.keys() - {"os", "architecture"} else None
