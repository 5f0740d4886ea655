"""The content store: raw files by digest, images that point to them, references that point to images.

Layout below its root, which is ``images/`` in the cache directory::

    content/, keys/, quarantine/         the raw files: see `images.contents`
    manifests/sha256/<hex>/manifest.json the manifest as the registry holds it; <hex> is its digest
    manifests/sha256/<hex>/image.json    records.ImageRecord, written last
    manifests/sha256/<hex>/used          empty; its mtime is when the image was used last
    references/<name>.<hash>.json        records.ReferenceRecord; <name> is the reference with / and : escaped
    pins/<name>.<hash>.json              records.Pin: what the reference points to stays
    staging/<hex>/lock, data, ledger     content on its way, one directory per key, locked by its puller
    claims/                              what running pulls rely on: see `images.claims`

Each thing appears by one rename after it has been synced, and in this order: content, image, reference. So whatever a
crash leaves, what can be seen is complete. All methods block: they are for threads.
"""

import contextlib
import errno
import hashlib
import shutil
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

from vzkubelet.errors import Error, Exhausted, NotFound, Unavailable
from vzkubelet.files import STAGING_PREFIX, read_if_present, sync_directory, write_atomic
from vzkubelet.images.chunk_lists import hex_of
from vzkubelet.images.claims import Claims
from vzkubelet.images.content_users import entries, finished, remove_old
from vzkubelet.images.contents import Contents
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.records import (
    ContentRecord,
    ImageRecord,
    Pin,
    ReferenceRecord,
    read_record,
    rfc3339,
    write_record,
)
from vzkubelet.images.staging import Staging, StagingRoot
from vzkubelet.model.reference import Reference, parse

LEFTOVER_AGE_S = 7 * 24 * 3600.0
"""Kept that long unless space is short: what a killed pull left, for the one that goes on, and damaged content, for
who wants to know what happened to it."""
_LONG_AGO = "1970-01-01T00:00:00Z"
_NAME_LIMIT = 150
"""Characters of a reference in its file's name; file names have 255 bytes at most and references may be longer."""


def store_fault(exc: OSError, what: str) -> Error:
    """A failure of the store's volume as one of our errors, with figures when it is full."""
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Exhausted(f"{what}: {reason}; free space on the volume of the cache directory", reason="ErrImagePull")
    return Unavailable(f"{what}: {reason}", reason="ErrImagePull")


class Store:
    def __init__(self, root: Path) -> None:
        """Touches nothing; directories are made when something is written."""
        self.root = root
        self.staging_root = root / "staging"
        self.contents = Contents(root)
        self._staging = StagingRoot(self.staging_root)
        self._manifests = root / "manifests" / "sha256"
        self._references = root / "references"
        self._pins = root / "pins"
        self._claims = Claims(root / "claims")

    def close(self) -> None:
        """End soon what is being verified."""
        self.contents.stop()

    # --- Content

    def content_path(self, digest: str) -> Path:
        return self.contents.path(digest)

    def chunks_path(self, digest: str) -> Path:
        return self.contents.chunks_path(digest)

    def users_path(self, digest: str) -> Path:
        return self.contents.users_path(digest)

    def has_content(self, content: ContentRecord) -> bool:
        """Whether it is here and is what was verified. What differs from its record is verified in full."""
        self._claims.claim(hex_of(content.digest))
        return self.contents.has(content)

    def chunk_list(self, content: ContentRecord, chunk_bytes: int) -> ChunkList | None:
        """The digests of a content's chunks of that size, computed by reading it the first time; None: not here."""
        self._claims.claim(hex_of(content.digest))
        return self.contents.chunk_list(content, chunk_bytes)

    def content_of(self, key: str) -> ContentRecord | None:
        """What once came under a staging key, and is still here."""
        return self.contents.of_key(key)

    def stage(self, key: str) -> Staging | None:
        """The place to write a content to, with what a killed writer left in it; None when somebody, in whatever
        process, is writing it. Look afterwards whether the content has come meanwhile."""
        return self._staging.stage(key)

    def verified_at(self, content: ContentRecord) -> str:
        """When all of a content was read last, RFC 3339; long ago where that is not known."""
        record = self.contents.record(content.digest)
        return record.verified_at if record is not None else _LONG_AGO

    def commit_content(self, staging: Staging, content: ContentRecord, chunks: bytes | None = None) -> None:
        """Make a verified and synced content visible, and unlock. `chunks` is the encoded list of chunks (`ChunkList`)
        that its digest is of; of a raw file any list that was verified in passing."""
        self._claims.claim(hex_of(content.digest))
        self.contents.commit(staging, content, chunks)

    # --- Images

    def image(self, manifest_digest: str) -> ImageRecord | None:
        """A complete image; None when it is not there or lacks content. A running pull may rely on it."""
        self._claims.claim(hex_of(manifest_digest))
        record = self.image_record(manifest_digest)
        if record is None:
            return None
        self._claims.claim(*(hex_of(content.digest) for content in record.contents))
        if not self.is_complete(record):
            return None
        self.mark_image_used(manifest_digest)
        return record

    def is_complete(self, record: ImageRecord, *, verify: bool = True) -> bool:
        """Whether the contents of an image are here."""
        return all(self.contents.has(content, verify=verify) for content in record.contents)

    def is_verified(self, record: ImageRecord) -> bool:
        """Whether `is_complete` has nothing to read but records."""
        return all(self.contents.is_recorded(content) is not None for content in record.contents)

    def commit_image(self, record: ImageRecord, manifest: bytes | None) -> None:
        """Make an image visible as soon as its content is there. `manifest` is None when nobody knows it."""
        self._claims.claim(hex_of(record.manifest_digest))
        directory = self._manifests / hex_of(record.manifest_digest)
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.parent)
        if manifest is not None:
            write_atomic(directory / "manifest.json", manifest, 0o644)
        write_record(directory / "image.json", record)

    def image_record(self, manifest_digest: str) -> ImageRecord | None:
        """What is known of an image, whether or not its content is here."""
        return read_record(self._image_path(manifest_digest), ImageRecord)

    def manifest(self, manifest_digest: str) -> bytes | None:
        """As the registry holds it; None when the image is not here, or nobody knows its manifest."""
        return read_if_present(self._manifests / hex_of(manifest_digest) / "manifest.json")

    def remove_image(self, manifest_digest: str) -> int | None:
        """Remove an image, the references that point to it, and what only it used. Returns the bytes freed, which are
        none for content that machines refer to; None when a pull relies on the image, and nothing is done."""
        with self._claims.settled() as claimed:
            record = self.image_record(manifest_digest)
            if hex_of(manifest_digest) in claimed:
                return None
            for reference in list(self.references()):
                if reference.manifest_digest == manifest_digest:
                    self.remove_reference(reference)
            shutil.rmtree(self._manifests / hex_of(manifest_digest), ignore_errors=True)
            if record is None:
                return 0
            kept = {content.digest for image in self.images() for content in image.contents}
            surplus = {content.digest for content in record.contents} - kept
            return sum(self.contents.remove(digest) or 0 for digest in surplus if hex_of(digest) not in claimed)

    def images(self) -> Iterator[ImageRecord]:
        """All images, also those that no reference points to any more."""
        for path in sorted(self._manifests.glob("*/image.json")):
            record = read_record(path, ImageRecord)
            if record is not None:
                yield record

    # --- References

    def find(self, target: Reference, *, verify: bool = True) -> tuple[ReferenceRecord, ImageRecord] | None:
        """What a reference points to, when the image is complete; that counts as a use of it.

        Content that differs from its record is verified first, which takes as long as reading it; neither with `verify`
        False, which is for figures and lists.
        """
        if target.digest:
            records = [record for record in self.references() if record.answers(target)]
        else:
            record = read_record(self._reference_path(target), ReferenceRecord)
            records = [record] if record is not None and record.answers(target) else []
        for record in records:
            image = self.image_record(record.manifest_digest)
            if image is not None and self.is_complete(image, verify=verify):
                if verify:
                    self.mark_image_used(image.manifest_digest)
                return record, image
        return None

    def references(self) -> Iterator[ReferenceRecord]:
        for path in finished(self._references):
            record = read_record(path, ReferenceRecord)
            if record is not None:
                yield record

    def commit_reference(self, target: Reference, record: ReferenceRecord) -> None:
        self._references.mkdir(parents=True, exist_ok=True)
        write_record(self._reference_path(target), record)

    def remove(self, records: Iterable[ReferenceRecord]) -> int:
        """Remove references and the images that no other reference points to. Returns the bytes freed."""
        freed_bytes = 0
        for record in records:
            self.remove_reference(record)
            if not any(other.manifest_digest == record.manifest_digest for other in self.references()):
                freed_bytes += self.remove_image(record.manifest_digest) or 0
        return freed_bytes

    def remove_reference(self, record: ReferenceRecord) -> None:
        """Forget a reference, and that it was pinned."""
        name = _file_name(record.reference)
        (self._references / name).unlink(missing_ok=True)
        (self._pins / name).unlink(missing_ok=True)
        sync_directory(self._references)

    def _reference_path(self, target: Reference) -> Path:
        return self._references / _file_name(str(target))

    # --- Marks

    def mark_used(self, reference: Reference | str) -> None:
        """Note that an image is used now. Cheap, and no harm is done if a crash loses it."""
        found = self.find(_parsed(reference), verify=False)
        if found is not None:
            self.mark_image_used(found[1].manifest_digest)

    def mark_image_used(self, manifest_digest: str) -> None:
        # Removed meanwhile, or no room for one more file: neither is a reason not to use it.
        with contextlib.suppress(OSError):
            self._used_mark(manifest_digest).touch()

    def last_used_at(self, manifest_digest: str) -> float:
        """When an image was used last or, if never, when it came; seconds since the epoch, 0 when it is not here."""
        for path in (self._used_mark(manifest_digest), self._image_path(manifest_digest)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def came_at(self, manifest_digest: str) -> float:
        """When an image was pulled; seconds since the epoch, 0 when it is not here."""
        with contextlib.suppress(FileNotFoundError):
            return self._image_path(manifest_digest).stat().st_mtime
        return 0.0

    def pin(self, reference: Reference | str) -> None:
        """Keep what a reference points to, now and when it has been pulled again, until `unpin` or its removal.

        Raises:
            NotFound: it is not here.
        """
        target = _parsed(reference)
        if not self._reference_path(target).exists():
            raise NotFound(f"{target} is not on this host: pull it first")
        self._pins.mkdir(parents=True, exist_ok=True)
        write_record(self._pins / _file_name(str(target)), Pin(reference=str(target), pinned_at=rfc3339(time.time())))

    def unpin(self, reference: Reference | str) -> bool:
        """False when it was not pinned."""
        try:
            (self._pins / _file_name(str(_parsed(reference)))).unlink()
        except FileNotFoundError:
            return False
        sync_directory(self._pins)
        return True

    def pins(self) -> frozenset[str]:
        """The pinned references in canonical form."""
        records = (read_record(path, Pin) for path in finished(self._pins))
        return frozenset(record.reference for record in records if record is not None)

    def _image_path(self, manifest_digest: str) -> Path:
        return self._manifests / hex_of(manifest_digest) / "image.json"

    def _used_mark(self, manifest_digest: str) -> Path:
        return self._manifests / hex_of(manifest_digest) / "used"

    # --- Removal

    @contextlib.contextmanager
    def pulling(self) -> Iterator[None]:
        """While held, nothing that was found here or committed meanwhile is removed by any process."""
        if not self.contents.directory.is_dir():
            self.root.mkdir(parents=True, exist_ok=True)
            # Private images are not for every user of the host, whoever has made the directory before the first one.
            self.root.chmod(0o700)
        with self._claims.held():
            yield

    def sweep(self, *, unreferenced_images: bool, leftover_age_s: float = LEFTOVER_AGE_S) -> int:
        """Remove content that no image refers to and what crashes leave; on request also images that no reference
        points to. What pulls and machines use stays, and so do, for that long, damaged content and what interrupted
        pulls have got. Returns the bytes freed."""
        if not self.root.is_dir():
            return 0
        freed_bytes = self._staging.sweep(time.time() - leftover_age_s)
        freed_bytes += self.contents.sweep_quarantine(time.time() - leftover_age_s)
        with self._claims.settled() as claimed:
            referenced = {hex_of(record.manifest_digest) for record in self.references()} | claimed
            for directory in entries(self._manifests):
                unused = unreferenced_images and directory.name not in referenced
                if unused or (directory.name not in claimed and not (directory / "image.json").exists()):
                    shutil.rmtree(directory, ignore_errors=True)
            used = {hex_of(content.digest) for image in self.images() for content in image.contents}
            freed_bytes += self.contents.sweep(frozenset(used | claimed))
        for directory in (self._references, self._pins, *entries(self._manifests)):
            remove_old(path for path in entries(directory) if path.name.startswith(STAGING_PREFIX))
        return freed_bytes


def _file_name(reference: str) -> str:
    short_hash = hashlib.sha256(reference.encode()).hexdigest()[:16]
    return f"{urllib.parse.quote(reference, safe='')[:_NAME_LIMIT]}.{short_hash}.json"


def _parsed(reference: Reference | str) -> Reference:
    return parse(reference) if isinstance(reference, str) else reference
