"""Taking over the images that the Go project of the same name left in its cache, so that they are not moved again.

It keeps ``blobs/<reference, each ':' a '/'>/{disk.img,aux.img,config.json}`` raw, and beside each file
``<file>.digest``: ``sha256:…`` of the raw file, which it trusts by modification times. We trust what we have hashed
ourselves.

It keeps no manifest. So an adopted image has a name of its own instead of a manifest's digest, and its reference says
what to start, not what the registry holds: IfNotPresent starts it offline, and the next pull of the reference asks the
registry, finds the contents here by their raw digests, moves nothing, and puts the true digest in place. Whether the
registry ever held these bytes the cache does not tell either; that they are what the Go project once wrote is proven.

Nothing is adopted that is incomplete, damaged, or changing. A crash on the way leaves each file in one place or the
other, and the next adoption goes on.
"""

import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet.errors import Error, InvalidInput
from vzkubelet.files import sync
from vzkubelet.images.chunk_lists import LIST_BYTES
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.artifact import Artifact, Content, Streams
from vzkubelet.images.pacing import Pacer
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord, rfc3339
from vzkubelet.images.store import Store
from vzkubelet.images.verification import examine, extents
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import Reference, digest_fault, parse

_log = logging.getLogger(__name__)
_DISK, _AUX, _CONFIG = "disk.img", "aux.img", "config.json"
_CONFIG_LIMIT_BYTES = 1024 * 1024
_PORTS = range(1, 65536)


@dataclass(frozen=True, slots=True)
class Adopted:
    reference: str
    directory: Path
    size_bytes: int
    """Of the raw files, holes included."""


@dataclass(frozen=True, slots=True)
class Left:
    """A directory that was left as it is, and why."""

    directory: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Adoption:
    adopted: tuple[Adopted, ...] = ()
    left: tuple[Left, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the cache. `source` is None when an interrupted adoption has moved it already."""

    content: ContentRecord
    source: Path | None
    chunks: bytes | None = None


class _Unfit(Exception):
    """Why a directory is not adopted."""


def adopt(store: Store, cache: Path, pacer: Pacer) -> Adoption:
    """Move every intact image below ``cache/blobs`` into the store. Raises: OSError, pacing.Stopped."""
    adopted: list[Adopted] = []
    left: list[Left] = []
    blobs = cache / "blobs"
    for directory in _image_directories(blobs):
        try:
            target = reference_of(directory.relative_to(blobs).parts)
            adopted.append(_adopt(store, directory, target, pacer))
        except (_Unfit, Error) as exc:
            _log.warning("not adopting the cached image %s: %s", directory, exc)
            left.append(Left(directory, str(exc)))
    return Adoption(tuple(adopted), tuple(left))


def reference_of(parts: tuple[str, ...]) -> Reference:
    """The reference that a directory below ``blobs`` was named after, each ``:`` of which became a ``/``.

    A number after the first part is read as a port, the last part as a tag unless only a host would be left of it.

    Raises:
        InvalidInput: no reference was named so.
    """
    rest = list(parts)
    if len(rest) >= 2 and rest[-2].endswith("@sha256"):
        digest = f"sha256:{rest.pop()}"
        rest[-1] = rest[-1].removesuffix("@sha256")
        text = _name(rest)
        # A tag before the digest has become a part of the path; what the tag was no longer matters.
        return parse(f"{text}@{digest}")
    if len(rest) < 2:
        raise InvalidInput(f"{'/'.join(parts)!r} is the name of no image reference")
    tag = rest.pop()
    name = _name(rest)
    is_host = "/" not in name and (":" in name or "." in name or name == "localhost")
    return parse(f"{name}/{tag}" if is_host else f"{name}:{tag}")


def _name(parts: list[str]) -> str:
    """With the port back in its place: a path's first part is hardly ever a number."""
    if len(parts) >= 2 and parts[1].isascii() and parts[1].isdecimal() and int(parts[1]) in _PORTS:
        return "/".join([f"{parts[0]}:{parts[1]}", *parts[2:]])
    return "/".join(parts)


def _image_directories(blobs: Path) -> Iterator[Path]:
    """Whatever has something of an image in it; links are not followed."""
    for directory, names, files in os.walk(blobs):
        names.sort()
        if {_DISK, _AUX, _CONFIG, f"{_DISK}.digest"} & set(files):
            yield Path(directory)


def _adopt(store: Store, directory: Path, target: Reference, pacer: Pacer) -> Adopted:
    known = next((record for record in store.references() if record.answers(target)), None)
    image = store.image_record(known.manifest_digest) if known is not None else None
    if known is not None and not (image is not None and image.adopted):
        raise _Unfit(f"{target} was pulled since; the directory can be removed")
    config = _config(directory)
    with store.pulling():
        aux = _examined(store, directory / _AUX, pacer)
        disk = _examined(store, directory / _DISK, pacer)
        record = _image(target, config, disk.content, aux.content)
        # First what refers to the contents, so that nobody takes them for surplus; it counts once they are there.
        store.commit_image(record, None)
        store.commit_reference(target, _pointer(target, record))
        for file in (aux, disk):
            _move(store, file, pacer)
    _clear(directory)
    size_bytes = disk.content.size_bytes + aux.content.size_bytes
    _log.info("adopted %s from %s: %d bytes", target, directory, size_bytes)
    return Adopted(str(target), directory, size_bytes)


def _config(directory: Path) -> bytes:
    path = directory / _CONFIG
    data = _text_file(path, _CONFIG_LIMIT_BYTES)
    digest_file = path.with_name(f"{_CONFIG}.digest")
    if digest_file.exists() and f"sha256:{hashlib.sha256(data).hexdigest()}" != _digest(digest_file):
        raise _Unfit(f"{_CONFIG} is not what its digest says")
    return data


def _examined(store: Store, path: Path, pacer: Pacer) -> _File:
    """The file after reading it in full. Raises _Unfit, OSError, pacing.Stopped."""
    digest = _digest(path.with_name(f"{path.name}.digest"))
    try:
        before = path.lstat()
    except FileNotFoundError:
        size_bytes = store.contents.size_bytes(digest)
        content = ContentRecord(digest, size_bytes or 0)
        if size_bytes is None or not store.has_content(content):
            raise _Unfit(f"{path.name} is missing") from None
        return _File(content, None)
    if not stat.S_ISREG(before.st_mode):
        raise _Unfit(f"{path.name} is no regular file")
    content = ContentRecord(digest, before.st_size)
    if store.has_content(content):  # of another tag: a second copy is of no use
        return _File(content, path)
    verdict = examine(path, digest, before.st_size, list_bytes=LIST_BYTES, pace=pacer)
    if verdict.damage is not None:
        raise _Unfit(f"{path.name} is damaged: {verdict.damage.reason}")
    after = path.lstat()
    if (after.st_ino, after.st_ctime_ns) != (before.st_ino, before.st_ctime_ns):
        raise _Unfit(f"{path.name} is being written to")
    return _File(content, path, verdict.chunks.to_bytes() if verdict.chunks is not None else None)


def _image(target: Reference, config: bytes, disk: ContentRecord, aux: ContentRecord) -> ImageRecord:
    nothing = Content(None, None, Streams(()))
    artifact = Artifact(Platform(os="", architecture=""), nothing, nothing, None)
    machine = agoda.read_machine(artifact, config, None, str(target))
    record = ImageRecord.of("", machine, disk, aux, adopted=True)
    name = hashlib.sha256(msgspec.json.encode(record, order="deterministic")).hexdigest()
    return msgspec.structs.replace(record, manifest_digest=f"sha256:{name}")


def _pointer(target: Reference, record: ImageRecord) -> ReferenceRecord:
    return ReferenceRecord(
        reference=str(target),
        repository=target.repository,
        resolved_digest=target.digest,  # the Go project had resolved by it; of a tag nobody knows
        manifest_digest=record.manifest_digest,
        pulled_at=rfc3339(time.time()),
    )


def _move(store: Store, file: _File, pacer: Pacer) -> None:
    if file.source is None:
        return
    if not store.has_content(file.content):
        staging = store.stage(file.content.digest)
        if staging is None:
            raise _Unfit(f"{file.content.digest} is being pulled by another process")
        try:
            if store.contents.take(file.source, file.content, file.chunks):
                staging.discard()
                return
            staging.data.unlink(missing_ok=True)
            _copy(file, staging.data, pacer)
        except BaseException:
            staging.discard()
            raise
        store.commit_content(staging, file.content, file.chunks)
    file.source.unlink(missing_ok=True)


def _copy(file: _File, target: Path, pacer: Pacer) -> None:
    """To another volume, holes kept, synced, and read again there."""
    assert file.source is not None
    size_bytes = file.content.size_bytes
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
        for extent in extents(file.source, size_bytes, pace=pacer):
            written = 0
            while extent.data is not None and written < extent.length:
                written += os.pwrite(descriptor, extent.data[written:], extent.offset + written)
        sync(descriptor)
    finally:
        os.close(descriptor)
    verdict = examine(target, file.content.digest, size_bytes, pace=pacer)
    if verdict.damage is not None:
        raise _Unfit(f"{file.source.name} was damaged while it was copied: {verdict.damage.reason}")


def _clear(directory: Path) -> None:
    """Remove what describes files that are no longer there, and the directories that are empty then."""
    for name in (_DISK, _AUX, _CONFIG):
        (directory / f"{name}.digest").unlink(missing_ok=True)
    (directory / _CONFIG).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: something else is in it
        while directory.name != "blobs":
            directory.rmdir()
            directory = directory.parent


def _digest(path: Path) -> str:
    digest = _text_file(path, 100).decode("ascii", "replace").strip()
    if digest_fault(digest) or not digest.startswith("sha256:"):
        raise _Unfit(f"{path.name} holds no digest")
    return digest


def _text_file(path: Path, limit_bytes: int) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _Unfit(f"{path.name} is no regular file")
        with path.open("rb") as file:
            return file.read(limit_bytes)
    except FileNotFoundError:
        raise _Unfit(f"{path.name} is missing") from None
