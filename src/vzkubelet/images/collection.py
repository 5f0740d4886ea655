"""Which images go when space is short: the kubelet's rules, without any IO.

Source: pkg/kubelet/images/image_gc_manager.go. One difference: images share contents here, so what an image frees
depends on the others, and one that could free nothing stays.
"""

from collections import Counter
from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FREE_DISK_SPACE_FAILED = "FreeDiskSpaceFailed"
"""Reason of the node's warning when images do not free enough; the text is `Collection.shortage`."""
IMAGE_GC_FAILED = "ImageGCFailed"
"""Reason of the node's warning from the second failure in a row on; the same text."""
INVALID_DISK_CAPACITY = "InvalidDiskCapacity"


@dataclass(frozen=True, slots=True)
class Rules:
    """Percent of the volume, ages in seconds. The defaults are the kubelet's."""

    high_percent: int = 85
    """From this use on images are removed …"""
    low_percent: int = 80
    """… until no more than this is used."""
    min_age_s: float = 120.0
    """An image that came later than that ago stays: it may be about to be used for the first time."""
    max_age_s: float = 0.0
    """An image that was not used for longer goes however empty the volume is; 0: none does."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as the rules see it. Times are seconds since the epoch."""

    digest: str
    contents: frozenset[str]
    came_at: float
    last_used_at: float
    is_kept: bool
    """In use, pinned, wanted by a pull or by the list of images that are to be here."""


@dataclass(frozen=True, slots=True)
class Volume:
    capacity_bytes: int
    available_bytes: int

    @property
    def used_percent(self) -> int:
        """As the kubelet reckons it; 0 for a volume without capacity."""
        if not self.capacity_bytes:
            return 0
        return 100 - min(self.available_bytes, self.capacity_bytes) * 100 // self.capacity_bytes


def bytes_to_free(volume: Volume, rules: Rules) -> int:
    """0 below the high threshold, else what is above the low one."""
    if not volume.capacity_bytes or volume.used_percent < rules.high_percent:
        return 0
    available = min(volume.available_bytes, volume.capacity_bytes)
    return max(0, volume.capacity_bytes * (100 - rules.low_percent) // 100 - available)


def evictable(images: Iterable[StoredImage], now: float, min_age_s: float) -> list[StoredImage]:
    """What may go for want of space, in the order in which it does: the one used longest ago first."""
    candidates = [
        image for image in images if not image.is_kept and image.last_used_at < now and now - image.came_at >= min_age_s
    ]
    return sorted(candidates, key=_by_use)


def overaged(images: Iterable[StoredImage], now: float, watched_since: float, rules: Rules) -> list[StoredImage]:
    """What goes for its age alone. Nothing does until uses have been watched for as long as the age itself."""
    if not rules.max_age_s or now - watched_since <= rules.max_age_s:
        return []
    return sorted(
        (image for image in images if not image.is_kept and now - image.last_used_at > rules.max_age_s), key=_by_use
    )


def choose(
    order: Sequence[StoredImage],
    images: Iterable[StoredImage],
    sizes: Mapping[str, int],
    wanted_bytes: int,
    held: Names[str] = (),
) -> list[StoredImage]:
    """The first of `order` that together free `wanted_bytes` or, if there is not so much, all that can.

    `images` are all there are, `sizes` the bytes that each content occupies; those in `held` cannot be removed.
    """
    users = Counter(content for image in images for content in image.contents)
    movable = Counter(content for image in order for content in image.contents)
    chosen: list[StoredImage] = []
    freed_bytes = 0
    for image in order:
        if freed_bytes >= wanted_bytes:
            break
        # A content goes when its last image does: it counts if all its images may go and nothing else holds it.
        if not any(sizes.get(c, 0) and users[c] == movable[c] and c not in held for c in image.contents):
            continue
        chosen.append(image)
        freed_bytes = reclaimed_bytes(chosen, users, sizes, held)
    return _without_idle(chosen, users, sizes, held)


def reclaimed_bytes(
    removed: Sequence[StoredImage], users: Mapping[str, int], sizes: Mapping[str, int], held: Names[str]
) -> int:
    """What removing these images frees; `users` tells how many images there are of each content."""
    gone = Counter(content for image in removed for content in image.contents)
    return sum(sizes.get(c, 0) for c, count in gone.items() if count == users[c] and c not in held)


def _without_idle(
    chosen: list[StoredImage], users: Mapping[str, int], sizes: Mapping[str, int], held: Names[str]
) -> list[StoredImage]:
    """Drop those that free nothing, because the other images of their contents were not reached any more."""
    gone = Counter(content for image in chosen for content in image.contents)
    return [
        image
        for image in chosen
        if any(sizes.get(c, 0) and gone[c] == users[c] and c not in held for c in image.contents)
    ]


def _by_use(image: StoredImage) -> tuple[float, float, str]:
    return (image.last_used_at, image.came_at, image.digest)


@dataclass(frozen=True, slots=True)
class Removed:
    """An image that was removed, and why: ``age``, ``space``, or ``request``."""

    manifest_digest: str
    references: tuple[str, ...]
    freed_bytes: int
    cause: str


@dataclass(frozen=True, slots=True)
class Collection:
    """What one collection did."""

    volume: Volume
    """Before it."""
    wanted_bytes: int
    freed_bytes: int
    """By everything, `leftover_bytes` included."""
    leftover_bytes: int
    """By removing what crashes, interrupted pulls and damage had left, and content that no image refers to."""
    removed: tuple[Removed, ...] = ()

    @property
    def shortage(self) -> str:
        """The kubelet's text when not enough could be freed, else empty."""
        if not self.volume.capacity_bytes:
            return "invalid capacity 0 on image filesystem"
        if self.freed_bytes >= self.wanted_bytes:
            return ""
        return (
            f"Insufficient free disk space on the node's image filesystem ({self.volume.used_percent}% of "
            f"{size_text(self.volume.capacity_bytes)} used). Failed to free sufficient space by deleting unused images "
            f"(freed {self.freed_bytes} bytes). Investigate disk usage, as it could be used by active images, logs, "
            f"volumes, or other data."
        )

    @property
    def event_reason(self) -> str:
        """Of the node's warning with the text of `shortage`; empty when there is none."""
        if not self.volume.capacity_bytes:
            return INVALID_DISK_CAPACITY
        return FREE_DISK_SPACE_FAILED if self.shortage else ""


def size_text(size_bytes: int) -> str:
    """As the kubelet writes sizes in these messages."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"
