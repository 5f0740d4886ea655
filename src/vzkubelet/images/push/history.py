"""What this host has pushed: by the digest of raw bytes, the blob that they became.

Layout below ``uploads`` in the store::

    blobs/<codec>/<raw size>/<hex>.json   records.BlobRecord; <hex> is the raw digest
    images/<hash of repository>.json      the newest chunked image that was pushed there

Nothing here is needed, and nothing is believed but after asking the registry whether it has the blob.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vzkubelet.files import write_atomic

T = TypeVar("T")
_KEPT_RECORDS = 4096
"""Per codec: sixteen disks of 128 GiB in tart's pieces. Older ones go."""
_KEPT_REPOSITORIES = 8


class BlobRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A run of raw bytes as a blob."""

    raw_digest: str
    raw_size_bytes: int
    digest: str
    size_bytes: int
    prefixes: tuple[str, ...] = ()
    """Digests of the raw bytes up to each multiple of `streams.PREFIX_BYTES`."""
    repositories: tuple[str, ...] = ()
    """``domain/path`` of where it was pushed to, the newest first."""


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    repository: str
    manifest_digest: str


class History:
    """Small files. All methods block; what cannot be read is None, what cannot be written is raised as OSError."""

    def __init__(self, root: Path) -> None:
        """`root` is the ``uploads`` directory; it is made when something is written."""
        self._blobs = root / "blobs"
        self._images = root / "images"

    def blob(self, codec: str, raw_digest: str, raw_size_bytes: int) -> BlobRecord | None:
        return _read(self._blob_path(codec, raw_digest, raw_size_bytes), BlobRecord)

    def candidates(self, codec: str, raw_size_bytes: int) -> Iterator[BlobRecord]:
        """What runs of that size have become."""
        for path in sorted((self._blobs / codec / str(raw_size_bytes)).glob("*.json")):
            record = _read(path, BlobRecord)
            if record is not None and record.raw_size_bytes == raw_size_bytes:
                yield record

    def add_blob(self, codec: str, record: BlobRecord, repository: str) -> None:
        """Remember that `repository` has the blob; places that were known before stay known."""
        known = self.blob(codec, record.raw_digest, record.raw_size_bytes)
        places = () if known is None or known.digest != record.digest else known.repositories
        repositories = (repository, *(place for place in places if place != repository))[:_KEPT_REPOSITORIES]
        path = self._blob_path(codec, record.raw_digest, record.raw_size_bytes)
        write_atomic(path, msgspec.json.encode(msgspec.structs.replace(record, repositories=repositories)))
        self._drop_old(codec)

    def image(self, repository: str) -> str | None:
        """Digest of the manifest of the newest chunked image that was pushed there."""
        record = _read(self._image_path(repository), ImageRecord)
        return record.manifest_digest if record is not None and record.repository == repository else None

    def set_image(self, repository: str, manifest_digest: str) -> None:
        record = ImageRecord(repository=repository, manifest_digest=manifest_digest)
        write_atomic(self._image_path(repository), msgspec.json.encode(record))

    def _blob_path(self, codec: str, raw_digest: str, raw_size_bytes: int) -> Path:
        return self._blobs / codec / str(raw_size_bytes) / f"{raw_digest.removeprefix('sha256:')}.json"

    def _image_path(self, repository: str) -> Path:
        return self._images / f"{hashlib.sha256(repository.encode()).hexdigest()}.json"

    def _drop_old(self, codec: str) -> None:
        paths = list((self._blobs / codec).glob("*/*.json"))
        if len(paths) <= _KEPT_RECORDS:
            return
        for path in sorted(paths, key=_modified)[: len(paths) - _KEPT_RECORDS * 3 // 4]:
            path.unlink(missing_ok=True)


def _read(path: Path, kind: type[T]) -> T | None:
    """None as well for what another version wrote or somebody damaged: it is only a memory."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def _modified(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
