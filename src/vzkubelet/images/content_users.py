"""Who refers to a content by its name: overlays of machines, which break when the file goes.

A content's users' directory holds symbolic links to what refers to it. Who adds one holds a shared lock on the
directory until the link leads to the content; who removes the content holds it exclusively, and looks.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from vzkubelet.files import STAGING_PREFIX

_BEING_MADE_S = 3600.0
"""A link that leads nowhere yet, and a half written file, may belong to something that is just being made."""


class Users:
    def __init__(self, directory: Path) -> None:
        """Touches nothing."""
        self._directory = directory

    def are_there(self, content: Path) -> bool:
        """Whether something refers to `content`."""
        # Sorted, so that a machine that is being renamed into its place is seen at the one or at the other.
        return any(_leads_to(link, content) for link in entries(self._directory))

    @contextlib.contextmanager
    def locked(self, kind: int) -> Iterator[None]:
        """Raises BlockingIOError when `kind` has LOCK_NB and somebody has it."""
        descriptor = None
        while descriptor is None:
            descriptor = self._lock(kind)
        try:
            yield
        finally:
            os.close(descriptor)

    def _lock(self, kind: int) -> int | None:
        """None: the directory was removed, and perhaps made anew, while we waited for it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, kind)
            if self._directory.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def forget_dead(self) -> None:
        """Remove links that lead nowhere and are not of something that is just being made."""
        remove_old(link for link in entries(self._directory) if not link.exists())


def _leads_to(link: Path, content: Path) -> bool:
    try:
        end = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    # A machine that was made anew from another image has the old one's name and does not use it any more. A damaged
    # content lies in quarantine, and its name leads there.
    return end.parent != content.parent.resolve() or end.name == content.name


def entries(directory: Path) -> list[Path]:
    """What is in a directory, sorted; nothing when it is not there."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def finished(directory: Path) -> list[Path]:
    """As `entries`, without files that are half written."""
    return [path for path in entries(directory) if not path.name.startswith(STAGING_PREFIX)]


def remove_old(paths: Iterable[Path]) -> None:
    """Remove what is older than an hour: younger, it may be something that is just being made."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > _BEING_MADE_S:
                path.unlink()
