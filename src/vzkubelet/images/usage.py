"""How much of the volume each image takes, and what keeps it: the figures of `image ls` and of the collection."""

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vzkubelet.errors import InvalidInput
from vzkubelet.images.collection import StoredImage, Volume
from vzkubelet.images.records import ImageRecord, ReferenceRecord
from vzkubelet.images.store import Store
from vzkubelet.model.reference import parse


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image, whatever number of references points to it. Times are seconds since the epoch."""

    record: ImageRecord
    references: tuple[ReferenceRecord, ...]
    """None: its tag has moved to another image."""
    size_bytes: int
    """Of the raw files, holes included."""
    allocated_bytes: int
    """What they take of the volume."""
    unique_bytes: int
    """What of that no other image shares, and nothing refers to: what removing the image frees."""
    came_at: float
    last_used_at: float
    is_pinned: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The images of a store at one moment."""

    images: tuple[ImageUsage, ...]
    sizes: dict[str, int]
    """Bytes that each content takes."""
    held: frozenset[str]
    """Contents that machines refer to by their names."""

    def rows(self, in_use: Iterable[str] = ()) -> list[StoredImage]:
        """For the rules of `images.collection`; `in_use` are references, image IDs or digests, of pods for example."""
        used = self.digests_of(in_use)
        return [
            StoredImage(
                digest=image.record.manifest_digest,
                contents=frozenset(content.digest for content in image.record.contents),
                came_at=image.came_at,
                last_used_at=image.last_used_at,
                is_kept=image.is_pinned or image.record.manifest_digest in used,
            )
            for image in self.images
        ]

    def digests_of(self, names: Iterable[str]) -> frozenset[str]:
        """The images that references in whatever form, image IDs (``repo@sha256:…``) or bare digests mean."""
        return frozenset(image.record.manifest_digest for name in names for image in self._meant(name))

    def _meant(self, name: str) -> list[ImageUsage]:
        digest = name.rpartition("@")[2]
        if digest.startswith("sha256:"):
            return [
                image
                for image in self.images
                if digest == image.record.manifest_digest
                or any(digest == reference.resolved_digest for reference in image.references)
            ]
        try:
            canonical = str(parse(name))
        except InvalidInput:
            return []
        return [image for image in self.images if any(canonical == row.reference for row in image.references)]


def snapshot(store: Store) -> Snapshot:
    """Blocks: two small files per image, and an lstat per content."""
    pointers: dict[str, list[ReferenceRecord]] = {}
    for reference in store.references():
        pointers.setdefault(reference.manifest_digest, []).append(reference)
    records = list(store.images())
    sizes = {digest: store.contents.allocated_bytes(digest) for digest in _digests(records)}
    held = frozenset(digest for digest in sizes if store.contents.is_used(digest))
    shares = Counter(digest for record in records for digest in _digests([record]))
    pins = store.pins()
    images = []
    for record in records:
        digests = _digests([record])
        references = tuple(pointers.get(record.manifest_digest, ()))
        images.append(
            ImageUsage(
                record=record,
                references=references,
                size_bytes=sum(content.size_bytes for content in record.contents),
                allocated_bytes=sum(sizes[digest] for digest in digests),
                unique_bytes=sum(sizes[digest] for digest in digests if shares[digest] == 1 and digest not in held),
                came_at=store.came_at(record.manifest_digest),
                last_used_at=store.last_used_at(record.manifest_digest),
                is_pinned=any(row.reference in pins for row in references),
            )
        )
    return Snapshot(tuple(images), sizes, held)


def volume(store: Store) -> Volume:
    """Of the store's directory, or of where it will be. Raises: OSError."""
    directory = store.root
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    status = os.statvfs(directory)
    return Volume(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


def _digests(records: Collection[ImageRecord]) -> set[str]:
    return {content.digest for record in records for content in record.contents}
