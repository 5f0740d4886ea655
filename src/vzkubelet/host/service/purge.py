"""Removing what an agent kept on a host beyond its service."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.files import remove_tree

CACHE_ENTRIES = ("images", "node", "standalone", "firmware.fd")
"""All that agents make in the cache. A directory that somebody else uses too keeps the rest."""


def remove(cache: Path, app: Path, directory: Path, log: Path | None) -> Iterator[Path]:
    """Remove and tell one by one; directories go only when nothing of others is in them. Raises: OSError."""
    for path in (*(cache / name for name in CACHE_ENTRIES), app, *([log] if log else [])):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            remove_tree(path)
        else:
            continue
        yield path
    for empty in (cache, directory):
        with contextlib.suppress(OSError):
            empty.rmdir()
            yield empty
