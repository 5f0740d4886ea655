"""The rules of `images.collection` carried out on a store. Everything here blocks."""

import logging
import time
from collections import Counter
from collections.abc import Collection as Names

from vzkubelet.errors import Exhausted
from vzkubelet.images import leftovers, usage
from vzkubelet.images.collection import (
    Collection,
    Removed,
    Rules,
    StoredImage,
    bytes_to_free,
    choose,
    evictable,
    overaged,
    reclaimed_bytes,
    size_text,
)
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.store import Store
from vzkubelet.images.usage import Snapshot

_log = logging.getLogger(__name__)


def collect(store: Store, rules: Rules, in_use: Names[str], watched_since: float) -> Collection:
    """The kubelet's garbage collection; leftovers go first, and early when space is short. Raises: OSError."""
    now = time.time()
    mark_used(store, usage.snapshot(store), in_use)
    volume = usage.volume(store)
    wanted_bytes = bytes_to_free(volume, rules)
    if wanted_bytes:
        _log.info("the images' volume is used to %d%%, freeing %d bytes", volume.used_percent, wanted_bytes)
    leftover_bytes = store.sweep(unreferenced_images=False)
    state = usage.snapshot(store)
    removed = _remove(store, state, overaged(state.rows(in_use), now, watched_since, rules), "age")
    freed_bytes = leftover_bytes + sum(image.freed_bytes for image in removed)
    if freed_bytes < wanted_bytes:
        early_bytes = store.sweep(unreferenced_images=False, leftover_age_s=0)
        leftover_bytes += early_bytes
        freed_bytes += early_bytes
    if freed_bytes < wanted_bytes:
        space = _evict(store, in_use, wanted_bytes - freed_bytes, rules.min_age_s, now)
        removed += space
        freed_bytes += sum(image.freed_bytes for image in space)
    return Collection(volume, wanted_bytes, freed_bytes, leftover_bytes, tuple(removed))


def prune(
    store: Store, everything: bool, unused_for_s: float, in_use: Names[str], *, is_trial: bool = False
) -> Collection:
    """What a person asks for; with `is_trial` only told, not done. Raises: OSError."""
    now = time.time()
    volume = usage.volume(store)
    if is_trial:
        leftover_bytes = leftovers.leftover_bytes(store)
    else:
        leftover_bytes = store.sweep(unreferenced_images=False, leftover_age_s=0)
    state = usage.snapshot(store)
    untagged = {image.record.manifest_digest for image in state.images if not image.references}
    chosen = [
        row
        for row in state.rows(in_use)
        if not row.is_kept and now - row.last_used_at >= unused_for_s and (everything or row.digest in untagged)
    ]
    removed = _would_remove(state, chosen) if is_trial else _remove(store, state, chosen, "request")
    freed_bytes = leftover_bytes + sum(image.freed_bytes for image in removed)
    return Collection(volume, 0, freed_bytes, leftover_bytes, tuple(removed))


def make_room(store: Store, wanted_bytes: int, name: str, in_use: Names[str] | None, rules: Rules) -> int:
    """Have that many bytes free, by removing leftovers, then images that no reference points to and, if `in_use` is
    told, those used least recently. Returns the bytes freed. Raises: Exhausted, OSError."""

    def sweep(_: int) -> int:
        return store.sweep(unreferenced_images=False)

    def sweep_early(_: int) -> int:
        return store.sweep(unreferenced_images=False, leftover_age_s=0)

    def free_images(short_bytes: int) -> int:
        return _free_images(store, in_use, short_bytes, rules.min_age_s)

    freed_bytes = 0
    for step in (sweep, sweep_early, free_images):
        short_bytes = wanted_bytes - usage.volume(store).available_bytes
        if short_bytes <= 0:
            return freed_bytes
        freed_bytes += step(short_bytes)
    available_bytes = usage.volume(store).available_bytes
    if available_bytes >= wanted_bytes:
        return freed_bytes
    raise _exhausted(store, wanted_bytes, available_bytes, freed_bytes, name, in_use)


def mark_used(store: Store, state: Snapshot, in_use: Names[str]) -> None:
    """Note that images are in use now, so that they are not the first to go when they no longer are."""
    for digest in state.digests_of(in_use):
        store.mark_image_used(digest)


def _free_images(store: Store, in_use: Names[str] | None, wanted_bytes: int, min_age_s: float) -> int:
    if in_use is None:
        return sum(image.freed_bytes for image in prune(store, False, 0.0, ()).removed)
    return sum(image.freed_bytes for image in _evict(store, in_use, wanted_bytes, min_age_s, time.time()))


def _evict(store: Store, in_use: Names[str], wanted_bytes: int, min_age_s: float, now: float) -> list[Removed]:
    state = usage.snapshot(store)
    rows = state.rows(in_use)
    chosen = choose(evictable(rows, now, min_age_s), rows, state.sizes, wanted_bytes, state.held)
    return _remove(store, state, chosen, "space")


def _remove(store: Store, state: Snapshot, chosen: Names[StoredImage], cause: str) -> list[Removed]:
    references = {
        image.record.manifest_digest: tuple(row.reference for row in image.references) for image in state.images
    }
    removed = []
    for image in chosen:
        freed_bytes = store.remove_image(image.digest)
        if freed_bytes is None:  # a pull has come to rely on it
            continue
        names = references[image.digest]
        _log.info("removed image %s (%s): %d bytes, for %s", image.digest, " ".join(names), freed_bytes, cause)
        removed.append(Removed(image.digest, names, freed_bytes, cause))
    return removed


def _would_remove(state: Snapshot, chosen: Names[StoredImage]) -> list[Removed]:
    """What `_remove` would return; a content of several images counts where the last of them goes."""
    users = Counter(content for row in state.rows() for content in row.contents)
    references = {image.record.manifest_digest: image.references for image in state.images}
    done: list[StoredImage] = []
    removed = []
    for row in chosen:
        before_bytes = reclaimed_bytes(done, users, state.sizes, state.held)
        done.append(row)
        freed_bytes = reclaimed_bytes(done, users, state.sizes, state.held) - before_bytes
        names = tuple(pointer.reference for pointer in references[row.digest])
        removed.append(Removed(row.digest, names, freed_bytes, "request"))
    return removed


def _exhausted(
    store: Store, wanted_bytes: int, available_bytes: int, freed_bytes: int, name: str, in_use: Names[str] | None
) -> Exhausted:
    state = usage.snapshot(store)
    rows = [row for row in state.rows(in_use or ()) if not row.is_kept]
    removable = choose(rows, state.rows(), state.sizes, 1 << 62, state.held)
    could_bytes = sum(state.sizes[c] for c in {c for row in removable for c in row.contents} - state.held)
    way_out = (
        f"{size_text(could_bytes)} could be freed by removing images (macos-vz-kubelet image prune --all)"
        if could_bytes
        else "no image is left to remove that is neither in use nor pinned"
    )
    return Exhausted(
        f"{name or store.root}: no space left: {wanted_bytes} bytes wanted, {available_bytes} bytes free on the volume "
        f"of the cache directory ({freed_bytes} of them freed now); {way_out}",
        reason=PULL_REASON,
    )
