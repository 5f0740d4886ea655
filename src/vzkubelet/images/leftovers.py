"""How much of a store is of no use any more: what a clean-up that is only tried would free. Everything here blocks."""

from vzkubelet.images.chunk_lists import hex_of
from vzkubelet.images.content_users import entries
from vzkubelet.images.staging import allocated_below, allocated_bytes
from vzkubelet.images.store import Store


def leftover_bytes(store: Store) -> int:
    """Of interrupted pulls that nobody goes on with now, of damaged content, and of content that no image refers to.

    Raises: OSError.
    """
    used = {content.digest for image in store.images() for content in image.contents}
    contents = [digest for digest in store.contents.digests() if digest not in used]
    return (
        sum(store.contents.allocated_bytes(digest) for digest in contents)
        + sum(allocated_bytes(path) for path in entries(store.contents.quarantine_directory))
        + sum(_staged_bytes(store, hex_of(path.name)) for path in entries(store.staging_root))
    )


def _staged_bytes(store: Store, key: str) -> int:
    staging = store.stage(key)
    if staging is None:  # somebody is at it
        return 0
    try:
        return allocated_below(staging.directory)
    finally:
        staging.release()
