"""Files that change all at once under a reader's eyes: the kubelet's ``..data`` layout (``AtomicWriter``).

::

    key       -> ..data/key
    sub       -> ..data/sub
    ..data    -> ..2026_11_21_12_00_00.x1y2z3
    ..2026_11_21_12_00_00.x1y2z3/{key,sub/file}

A new version is written beside the old one and published by renaming the link ``..data``. Programs that watch such
volumes (inotify on ``..data``) rely on exactly this layout.
"""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from vzkubelet.errors import InvalidInput
from vzkubelet.files import remove_tree

DATA = "..data"
_STAGED_LINK = "..data_tmp"
_VERSION_PREFIX = "..2"
"""Directories of versions start with a year; no user file can start with two dots."""
_NAME_LIMIT = 255
_PATH_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class File:
    """`mode` holds permission bits, applied whatever the umask is."""

    data: bytes
    mode: int = 0o644


def checked_path(path: str) -> str:
    """The path of a file below a volume, normalised.

    Raises:
        InvalidInput: absolute, leading out of the volume, starting with ``..``, or too long; in the kubelet's words.
    """
    if not path:
        raise InvalidInput('invalid path: must not be empty: ""')
    if path.startswith("/"):
        raise InvalidInput(f"invalid path: must be relative path: {path}")
    if len(path) > _PATH_LIMIT:
        raise InvalidInput(f"invalid path: must be less than or equal to {_PATH_LIMIT} characters")
    items = path.split("/")
    if ".." in items:
        raise InvalidInput(f"invalid path: must not contain '..': {path}")
    if any(len(item) > _NAME_LIMIT for item in items):
        raise InvalidInput(f"invalid path: filenames must be less than or equal to {_NAME_LIMIT} characters")
    if items[0].startswith(".."):
        raise InvalidInput(f"invalid path: must not start with '..': {path}")
    normalised = str(PurePosixPath(path))
    if normalised == ".":
        raise InvalidInput(f"invalid path: must name a file: {path}")
    return normalised


def is_written(directory: Path) -> bool:
    """Whether a complete version has been published here."""
    return (directory / DATA).is_dir()


def write(directory: Path, files: Mapping[str, File]) -> bool:
    """Make the directory show exactly these files; True when something changed. Blocking.

    Raises:
        InvalidInput: a path that is not allowed.
        OSError: nothing has changed for readers then.
    """
    wanted = {checked_path(path): file for path, file in files.items()}
    current = _current_version(directory)
    changed = current is None or _present(current) != wanted
    if changed:
        version = _write_version(directory, wanted)
        _publish(directory, version)
        current = version
    assert current is not None
    visible = {path.partition("/")[0] for path in wanted}
    _link(directory, visible)
    _tidy(directory, visible, current)
    return changed


def _current_version(directory: Path) -> Path | None:
    try:
        return directory / (directory / DATA).readlink().name
    except OSError:
        return None


def _present(version: Path) -> dict[str, File]:
    found = {}
    for parent, _, names in os.walk(version):
        for name in names:
            path = Path(parent, name)
            found[path.relative_to(version).as_posix()] = File(path.read_bytes(), path.stat().st_mode & 0o7777)
    return found


def _write_version(directory: Path, files: Mapping[str, File]) -> Path:
    stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    version = Path(tempfile.mkdtemp(prefix=stamp, dir=directory))
    try:
        version.chmod(0o755)
        for name, file in files.items():
            path = version / name
            for parent in reversed(path.relative_to(version).parents[:-1]):
                if not (version / parent).is_dir():
                    (version / parent).mkdir()
                    (version / parent).chmod(0o755)
            # Created closed: what is secret is never readable by others, not even for a moment.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.data)
                os.fchmod(stream.fileno(), file.mode)
    except BaseException:
        remove_tree(version)
        raise
    return version


def _publish(directory: Path, version: Path) -> None:
    staged = directory / _STAGED_LINK
    try:
        staged.unlink(missing_ok=True)  # of a process that was killed here
        staged.symlink_to(version.name)
        staged.replace(directory / DATA)
    except BaseException:
        staged.unlink(missing_ok=True)
        remove_tree(version)
        raise


def _link(directory: Path, names: set[str]) -> None:
    for name in names:
        with contextlib.suppress(FileExistsError):
            (directory / name).symlink_to(f"{DATA}/{name}")


def _tidy(directory: Path, visible: set[str], current: Path) -> None:
    """Remove links to files that are gone and versions that nobody sees, also those of a process that was killed."""
    for entry in list(directory.iterdir()):
        if entry.name.startswith(_VERSION_PREFIX):
            if entry.name != current.name:
                remove_tree(entry)
        elif entry.is_symlink() and not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink(missing_ok=True)
