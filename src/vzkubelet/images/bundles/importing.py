"""Bundles into the store: cloned, never moved; hashed once; named by a manifest of their own.

The image's manifest is one of the agoda format whose layers are the raw files: it says what is here, and no registry
has it. Everything blocks, for a thread or a command line; Ctrl-C leaves nothing half made.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vzkubelet.errors import Conflict, Exhausted, InvalidInput
from vzkubelet.files import open_regular, reflink, sync
from vzkubelet.images.bundles import qcow2
from vzkubelet.images.bundles.bundle import Bundle, DiskFormat, read_fault, write_fault
from vzkubelet.images.bundles.copying import new_file
from vzkubelet.images.bundles.recognition import check
from vzkubelet.images.formats import agoda
from vzkubelet.images.formats.artifact import Content, Encoding, single
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord, rfc3339
from vzkubelet.images.sparse import read_blocks
from vzkubelet.images.staging import Staging
from vzkubelet.images.store import Store
from vzkubelet.model.oci import Descriptor
from vzkubelet.model.reference import Reference

Report = Callable[[str, int, int], None]
"""Hears the stage, bytes done and bytes in all."""
_OTHER_PROCESS_POLL_S = 0.2


def import_bundle(store: Store, bundle: Bundle, target: Reference, report: Report) -> ImageRecord:
    """Have what `bundle` holds in the store under `target`. What the same files brought before is not read again.

    Raises: InvalidInput, Conflict (a file changed meanwhile), Exhausted (with figures), Forbidden, Unavailable.
    """
    if target.digest:
        raise InvalidInput(f"{target}: import under a tag, a digest follows from what is imported")
    check(bundle)
    assert bundle.aux is not None
    try:
        with store.pulling():
            aux = _Content(store, bundle.aux, DiskFormat.RAW, report).ensure()
            disk = _Content(store, bundle.disk, bundle.disk_format, report).ensure()
            manifest = _manifest(bundle, disk, aux)
            digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            record = ImageRecord.of(digest, bundle.machine, disk, aux, adopted=True)
            store.commit_image(record, manifest)
            store.commit_reference(
                target,
                ReferenceRecord(
                    reference=str(target),
                    repository=target.repository,
                    resolved_digest=digest,
                    manifest_digest=digest,
                    pulled_at=rfc3339(time.time()),
                ),
            )
    except OSError as exc:
        raise write_fault(exc, store.root) from exc
    return record


class _Content:
    """One file on its way into the store."""

    def __init__(self, store: Store, source: Path, format_: DiskFormat, report: Report) -> None:
        self._store = store
        self._source = source
        self._format = format_
        self._report = report

    def ensure(self) -> ContentRecord:
        try:
            descriptor = open_regular(self._source)
        except OSError as exc:
            raise read_fault(exc, self._source) from exc
        try:
            return self._ensure(descriptor)
        finally:
            os.close(descriptor)

    def _ensure(self, descriptor: int) -> ContentRecord:
        before = os.fstat(descriptor)
        key = self._key(before)
        while True:
            known = self._store.content_of(key)
            if known is not None and self._store.has_content(known):
                return known
            staging = self._store.stage(key)
            if staging is not None:
                break
            time.sleep(_OTHER_PROCESS_POLL_S)
        try:
            content = self._stage(descriptor, staging)
            self._check_unchanged(descriptor, key)
            self._store.commit_content(staging, content)
        except BaseException:
            if staging.directory.exists():
                staging.discard()
            raise
        return content

    def _check_unchanged(self, descriptor: int, key: str) -> None:
        if self._key(os.fstat(descriptor)) != key:
            raise Conflict(f"{self._source} was written to while it was read: shut its virtual machine down first")

    def _key(self, status: os.stat_result) -> str:
        """Names this state of this file: no system call gives a changed file its old ctime back."""
        parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        text = f"import {self._format.value} {' '.join(map(str, parts))}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def _stage(self, descriptor: int, staging: Staging) -> ContentRecord:
        for leftover in (staging.data, staging.ledger):
            leftover.unlink(missing_ok=True)
        if self._format is DiskFormat.QCOW2:
            return self._convert(descriptor, staging)
        if reflink(self._source, staging.data):
            return self._hash(staging)
        size_bytes = os.fstat(descriptor).st_size
        self._check_space(os.fstat(descriptor).st_blocks * 512)
        with new_file(staging.data, size_bytes) as copy:
            for block in self._blocks(descriptor, size_bytes):
                copy.write(block)
                self._tell("import", copy.position, size_bytes)
        return ContentRecord(copy.digest, size_bytes)

    def _convert(self, descriptor: int, staging: Staging) -> ContentRecord:
        reader = qcow2.Reader(descriptor, str(self._source))
        self._check_space(os.fstat(descriptor).st_blocks * 512)
        with new_file(staging.data, reader.size_bytes) as copy:
            for offset, data in self._clusters(reader):
                copy.skip_to(offset)
                copy.write(data)
                self._tell("convert", copy.position, reader.size_bytes)
            copy.skip_to(reader.size_bytes)
        self._tell("convert", reader.size_bytes, reader.size_bytes)
        return ContentRecord(copy.digest, reader.size_bytes)

    def _hash(self, staging: Staging) -> ContentRecord:
        """Of what is on the disk now; syncs it too."""
        descriptor = os.open(staging.data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync(descriptor)
            size_bytes = os.fstat(descriptor).st_size
            hasher, done_bytes = hashlib.sha256(), 0
            for block in read_blocks(descriptor, size_bytes):
                hasher.update(block)
                done_bytes += len(block)
                self._tell("hash", done_bytes, size_bytes)
        finally:
            os.close(descriptor)
        return ContentRecord(f"sha256:{hasher.hexdigest()}", size_bytes)

    def _blocks(self, descriptor: int, size_bytes: int) -> Iterator[bytes]:
        """Reading alone; what goes wrong with it is told apart from the store's troubles."""
        try:
            yield from read_blocks(descriptor, size_bytes)
        except EOFError as exc:
            raise Conflict(
                f"{self._source} became shorter while it was read: shut its virtual machine down first"
            ) from exc
        except OSError as exc:
            raise read_fault(exc, self._source) from exc

    def _clusters(self, reader: qcow2.Reader) -> Iterator[tuple[int, bytes]]:
        try:
            yield from reader.data()
        except OSError as exc:
            raise read_fault(exc, self._source) from exc

    def _check_space(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._store.staging_root).free
        if free_bytes < needed_bytes:
            raise Exhausted(
                f"no space for {self._source}: it takes {needed_bytes} bytes, {free_bytes} bytes are free on the "
                f"volume of {self._store.root}; see `image prune`"
            )

    def _tell(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        self._report(f"{stage} {self._source.name}", done_bytes, total_bytes)


def _manifest(bundle: Bundle, disk: ContentRecord, aux: ContentRecord) -> bytes:
    """Equal bundles have equal manifests."""
    return agoda.write(bundle.machine, _raw(disk), _raw(aux)).manifest


def _raw(content: ContentRecord) -> Content:
    """Of a file that is its own blob."""
    blob = Descriptor(media_type=agoda.DISK, digest=content.digest, size=content.size_bytes)
    return single(blob, Encoding.IDENTITY, content.size_bytes, content.digest)
