"""What is known of an image: its manifest explained, and what this host has of it. For people and their scripts."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vzkubelet.errors import Error, Forbidden, NotFound, Unauthenticated
from vzkubelet.images import formats
from vzkubelet.images.description import choose, describe
from vzkubelet.images.formats import Chunked, Content, Machine, Streams
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord, rfc3339
from vzkubelet.images.registry import Repository
from vzkubelet.images.store import Store
from vzkubelet.images.transport import Transport
from vzkubelet.model.oci import Index, Manifest, Platform
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

_ANONYMOUS = RegistryCredential()


class _View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """camelCase, without what is not known."""


class BlobsView(_View, frozen=True):
    """How a file lies in the registry."""

    layout: str
    """``gzip``, ``apple-lz4``, ``identity`` or ``chunked``."""
    count: int
    size_bytes: int


class FileView(_View, frozen=True):
    """Disk or auxiliary storage."""

    size_bytes: int | None = None
    raw_digest: str | None = None
    """sha256 of the whole file, where it is known."""
    digest: str | None = None
    """What this host has verified it by."""
    blobs: BlobsView | None = None
    path: str | None = None
    allocated_bytes: int | None = None
    verified_at: str | None = None


class MachineView(_View, frozen=True):
    os: str
    architecture: str
    has_boot_data: bool = False
    cpu_min: int = 0
    memory_min_bytes: int = 0
    cpu_count: int = 0
    memory_bytes: int = 0
    mac_address: str = ""
    display: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}


class LocalView(_View, frozen=True):
    """What this host has."""

    complete: bool
    pulled_at: str
    last_used_at: str
    pinned: bool = False
    imported: bool = False
    """It came from this host's disk; no registry has its manifest."""


class EntryView(_View, frozen=True):
    """An entry of an image index."""

    digest: str
    media_type: str
    artifact_type: str = ""
    platform: str = ""


class Inspection(_View, frozen=True, kw_only=True):
    reference: str
    digest: str
    """Of the manifest."""
    resolved_digest: str = ""
    """What the tag itself points to, where that is an index."""
    format: str = ""
    machine: MachineView
    disk: FileView
    aux: FileView
    local: LocalView | None = None
    index: tuple[EntryView, ...] = ()
    manifest: msgspec.Raw | None = None


def local(store: Store, target: Reference) -> Inspection | None:
    """What this host has under a reference, complete or not. Blocks. Raises: OSError."""
    pointer = next((record for record in store.references() if record.answers(target)), None)
    record = store.image_record(pointer.manifest_digest) if pointer is not None else None
    if pointer is None or record is None:
        return None
    content = store.manifest(record.manifest_digest)
    # An imported image lies in no registry, whatever its manifest looks like.
    manifest = formats.read_manifest(content, str(target)) if content and not record.adopted else None
    artifact = formats.read(manifest, str(target)) if manifest is not None else None
    return Inspection(
        reference=str(target),
        digest=record.manifest_digest,
        resolved_digest=_other(pointer.resolved_digest, record.manifest_digest),
        format=_format_name(manifest),
        machine=_machine(record.machine),
        disk=_file(store, record.disk, artifact.disk if artifact is not None else None),
        aux=_file(store, record.aux, artifact.aux if artifact is not None else None),
        local=_local(store, pointer, record),
        manifest=msgspec.Raw(content) if content else None,
    )


async def remote(
    target: Reference,
    credentials: Sequence[RegistryCredential],
    platforms: Sequence[Platform] = (),
    *,
    plain_http: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Inspection:
    """What a registry has under a reference; small documents only are fetched.

    Raises: NotFound, Unauthenticated, Forbidden, Unavailable, Integrity, InvalidInput (no virtual machine image).
    """
    transport = Transport(plain_http=plain_http, tls=tls)
    try:
        refusal: Error | None = None
        for credential in credentials or (_ANONYMOUS,):
            try:
                return await _remote(Repository(transport, target, credential), target, platforms)
            except (Unauthenticated, Forbidden, NotFound) as exc:
                refusal = exc  # registries hide with "not found" what a login may not see
        assert refusal is not None
        raise refusal
    finally:
        await transport.close()


async def _remote(repository: Repository, target: Reference, platforms: Sequence[Platform]) -> Inspection:
    root = await repository.manifest(target.digest or target.tag)
    document, index = await choose(repository, root, platforms)
    found = await describe(repository, document)
    return Inspection(
        reference=str(target),
        digest=document.digest,
        resolved_digest=_other(root.digest, document.digest),
        format=_format_name(found.manifest),
        machine=_machine(found.machine),
        disk=_blobs_of(found.artifact.disk),
        aux=_blobs_of(found.artifact.aux),
        index=_entries(index),
        manifest=msgspec.Raw(document.content),
    )


def _entries(index: Index | None) -> tuple[EntryView, ...]:
    return tuple(
        EntryView(
            digest=entry.digest,
            media_type=entry.media_type,
            artifact_type=entry.artifact_type,
            platform="" if entry.platform is None else str(entry.platform),
        )
        for entry in (index.manifests if index is not None else ())
    )


def _other(digest: str, known: str) -> str:
    return "" if digest == known else digest


def _format_name(manifest: Manifest | None) -> str:
    format_ = formats.format_of(manifest) if manifest is not None else None
    return "" if format_ is None else format_.NAME


def _machine(machine: Machine) -> MachineView:
    display = machine.display
    defaults = machine.defaults
    return MachineView(
        os=machine.os,
        architecture=machine.architecture,
        has_boot_data=bool(machine.hardware_model and machine.machine_id),
        cpu_min=machine.cpu_min,
        memory_min_bytes=machine.memory_min_bytes,
        cpu_count=machine.cpu_count,
        memory_bytes=machine.memory_bytes,
        mac_address=machine.mac_address,
        display="" if display is None else f"{display.width}x{display.height}{display.unit}",
        entrypoint=defaults.entrypoint,
        cmd=defaults.cmd,
        env=tuple(f"{name}={value}" for name, value in defaults.env),
        working_dir=defaults.working_dir,
        user=defaults.user,
        labels=dict(machine.labels),
    )


def _blobs_of(content: Content) -> FileView:
    match content.layout:
        case Streams(streams):
            layout = streams[0].encoding.value if streams else ""
        case Chunked():
            layout = "chunked"
    blobs = BlobsView(layout=layout, count=len(content.blobs), size_bytes=content.blob_bytes)
    return FileView(size_bytes=content.raw_size_bytes, raw_digest=content.raw_digest, blobs=blobs)


def _file(store: Store, record: ContentRecord, content: Content | None) -> FileView:
    path = store.content_path(record.digest)
    stored = store.contents.record(record.digest)
    known = FileView() if content is None else _blobs_of(content)
    is_here = stored is not None and path.exists()
    return FileView(
        size_bytes=record.size_bytes,
        raw_digest=known.raw_digest,
        digest=record.digest,
        blobs=known.blobs,
        path=str(path) if is_here else None,
        allocated_bytes=_allocated(path) if is_here else None,
        verified_at=stored.verified_at if stored is not None else None,
    )


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def _local(store: Store, pointer: ReferenceRecord, record: ImageRecord) -> LocalView:
    return LocalView(
        complete=store.is_complete(record, verify=False),
        pulled_at=pointer.pulled_at,
        last_used_at=rfc3339(store.last_used_at(record.manifest_digest)),
        pinned=pointer.reference in store.pins(),
        imported=record.adopted,
    )
