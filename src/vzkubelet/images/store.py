"""The content store: raw files by digest, images that point to them, references that point to images.

Layout below its root, which is ``images/`` in the cache directory::

    content/sha256/<hex>                 raw disk or auxiliary storage, mode 0444, holes kept; named by its digest
    manifests/sha256/<hex>/manifest.json the manifest as the registry holds it; <hex> is its digest
    manifests/sha256/<hex>/image.json    records.ImageRecord, written last
    references/<name>.<hash>.json        records.ReferenceRecord; <name> is the reference with / and : escaped
    staging/<hex>/lock, data             content on its way, one directory per raw digest, locked by its puller
    lock                                 shared by pulls, exclusive while unused content is swept
    sweep-wanted                         there while a removal waits for running pulls to end

Each thing appears by one rename after it has been synced, and in this order: content, image, reference. So whatever a
crash leaves, what can be seen is complete. All methods block: they are for
threads. A ledger of verified ranges will live beside ``data``, so that a killed pull can go on.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vzkubelet.errors import Error, Exhausted, Unavailable
from vzkubelet.files import sync_directory, write_atomic
from vzkubelet.images.records import ContentRecord, ImageRecord, ReferenceRecord
from vzkubelet.model.reference import Reference

_log = logging.getLogger(__name__)
T = TypeVar("T")
_NAME_LIMIT = 150
"""Characters of a reference in its file's name; file names have 255 bytes at most and references may be longer."""


def store_fault(exc: OSError, what: str) -> Error:
    """A failure of the store's volume as one of our errors, with figures when it is full."""
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Exhausted(f"{what}: {reason}; free space on the volume of the cache directory", reason="ErrImagePull")
    return Unavailable(f"{what}: {reason}", reason="ErrImagePull")


class Staging:
    """A locked place for one content on its way. `data` is the file to write."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._descriptor = descriptor

    def discard(self) -> None:
        """Remove the place with what is in it, and unlock."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._descriptor)


class Store:
    def __init__(self, root: Path) -> None:
        """Touches nothing; directories are made when something is written."""
        self.root = root
        self.staging_root = root / "staging"
        self._content = root / "content" / "sha256"
        self._manifests = root / "manifests" / "sha256"
        self._references = root / "references"
        self._sweep_wanted = root / "sweep-wanted"

    # --- Content

    def content_path(self, digest: str) -> Path:
        return self._content / _hex(digest)

    def has_content(self, content: ContentRecord) -> bool:
        """Whether it is there with its size. Its digest was verified when it came."""
        try:
            return self.content_path(content.digest).stat().st_size == content.size_bytes
        except FileNotFoundError:
            return False

    def stage(self, content: ContentRecord) -> Staging | None:
        """The place to write a content to; None when it is there, or somebody in whatever process is writing it."""
        directory = self.staging_root / _hex(content.digest)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # its owner has just removed the directory
            return None
        if not _lock_current(descriptor, directory / "lock"):
            os.close(descriptor)
            return None
        staging = Staging(directory, descriptor)
        if self.has_content(content):
            staging.discard()
            return None
        staging.data.unlink(missing_ok=True)
        return staging

    def commit_content(self, staging: Staging, digest: str) -> None:
        """Make a verified and synced content visible, and unlock."""
        self._content.mkdir(parents=True, exist_ok=True)
        staging.data.chmod(0o444)
        staging.data.replace(self.content_path(digest))
        sync_directory(self._content)
        staging.discard()

    # --- Images

    def image(self, manifest_digest: str) -> ImageRecord | None:
        """A complete image; None when it is not there or lacks content."""
        record = _read(self._manifests / _hex(manifest_digest) / "image.json", ImageRecord)
        if record is None or not all(self.has_content(content) for content in record.contents):
            return None
        return record

    def commit_image(self, record: ImageRecord, manifest: bytes) -> None:
        """Make an image visible whose content is there."""
        directory = self._manifests / _hex(record.manifest_digest)
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.parent)
        write_atomic(directory / "manifest.json", manifest, 0o644)
        write_atomic(directory / "image.json", msgspec.json.format(msgspec.json.encode(record)), 0o644)

    def images(self) -> Iterator[ImageRecord]:
        """All images, also those that no reference points to any more."""
        for path in sorted(self._manifests.glob("*/image.json")):
            record = _read(path, ImageRecord)
            if record is not None:
                yield record

    # --- References

    def find(self, target: Reference) -> tuple[ReferenceRecord, ImageRecord] | None:
        """What a reference points to, when the image is complete."""
        if target.digest:
            records = [record for record in self.references() if record.answers(target)]
        else:
            record = _read(self._reference_path(target), ReferenceRecord)
            records = [record] if record is not None and record.answers(target) else []
        for record in records:
            image = self.image(record.manifest_digest)
            if image is not None:
                return record, image
        return None

    def references(self) -> Iterator[ReferenceRecord]:
        for path in sorted(self._references.glob("*.json")):
            record = _read(path, ReferenceRecord)
            if record is not None:
                yield record

    def commit_reference(self, target: Reference, record: ReferenceRecord) -> None:
        self._references.mkdir(parents=True, exist_ok=True)
        write_atomic(self._reference_path(target), msgspec.json.format(msgspec.json.encode(record)), 0o644)

    def remove_reference(self, record: ReferenceRecord) -> None:
        path = self._reference_file(record.reference)
        path.unlink(missing_ok=True)
        sync_directory(self._references)

    def _reference_path(self, target: Reference) -> Path:
        return self._reference_file(str(target))

    def _reference_file(self, text: str) -> Path:
        short_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._references / f"{urllib.parse.quote(text, safe='')[:_NAME_LIMIT]}.{short_hash}.json"

    # --- Removal

    @contextlib.contextmanager
    def pulling(self) -> Iterator[None]:
        """While held, content that no image refers to yet is not swept.

        Raises:
            BlockingIOError: a sweep is running.
        """
        # Private images are not for every user of the host.
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def sweep(self, *, unreferenced_images: bool) -> int | None:
        """Remove staging of dead processes and content that no image refers to; on request also images that no
        reference points to. Returns the bytes freed. While a pull runs in any process nothing is done but to note the
        request, and None returned: whoever pulls looks at `sweep_is_wanted` afterwards."""
        if not self.root.is_dir():
            return 0
        try:
            with self._locked(fcntl.LOCK_EX):
                freed_bytes = self._sweep(unreferenced_images or self.sweep_is_wanted())
                self._sweep_wanted.unlink(missing_ok=True)
                return freed_bytes
        except BlockingIOError:
            if unreferenced_images:
                self._sweep_wanted.touch()
            return None

    def sweep_is_wanted(self) -> bool:
        return self._sweep_wanted.exists()

    def _sweep(self, unreferenced_images: bool) -> int:
        freed_bytes = 0
        for leftover in _entries(self.staging_root):
            freed_bytes += sum(_allocated(file) for file in leftover.rglob("*"))
            _log.info("removing what an interrupted pull left: %s", leftover.name)
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        referenced = {_hex(record.manifest_digest) for record in self.references()}
        for directory in _entries(self._manifests):
            unused = unreferenced_images and directory.name not in referenced
            if unused or not (directory / "image.json").exists():
                shutil.rmtree(directory, ignore_errors=True)
        for half_written in (*self._references.glob(".*"), *self._manifests.glob("*/.*")):
            half_written.unlink(missing_ok=True)
        used = {_hex(content.digest) for image in self.images() for content in image.contents}
        for file in _entries(self._content):
            if file.name not in used:
                freed_bytes += _allocated(file)
                file.unlink(missing_ok=True)
        return freed_bytes


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _lock_current(descriptor: int, path: Path) -> bool:
    """Lock an open lock file; False when it is taken, or is not the one at `path` because its owner removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _allocated(path: Path) -> int:
    """Bytes that removing the file frees."""
    status = path.lstat()
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def _read(path: Path, type_: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        _log.warning("ignoring %s, the image will be pulled again: %s", path, exc)
        return None
