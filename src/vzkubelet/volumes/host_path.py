"""hostPath volumes: a path of this machine, checked for its type as the kubelet checks it."""

import stat
from pathlib import Path

from vzkubelet.errors import Conflict, InvalidInput
from vzkubelet.model import pod as api

_CHECKS = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def prepare(source: api.HostPathVolumeSource) -> Path:
    """The path, made where its type asks for it. Blocking.

    Raises:
        InvalidInput: an unknown type, or a path that is relative or contains ``..``.
        Conflict: what is there is of another type.
        OSError: it cannot be made.
    """
    path = Path(source.path)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidInput(f"invalid HostPath `{source.path}`: must be an absolute path without '..'")
    if not source.type:
        return path
    if source.type not in _CHECKS:
        raise InvalidInput(f"{source.type} is an invalid volume type")
    if source.type.endswith("OrCreate") and not path.exists():
        _create(path, source.type)
    matches, kind = _CHECKS[source.type]
    try:
        found = matches(path.stat().st_mode)
    except OSError:
        found = False
    if not found:
        raise Conflict(f"hostPath type check failed: {source.path} is not {kind}")
    return path


def _create(path: Path, type_: str) -> None:
    """0755 and 0644 as the kubelet gives; the parent of a file is not made."""
    if type_ == "DirectoryOrCreate":
        path.mkdir(parents=True, mode=0o755, exist_ok=True)
    else:
        path.touch(mode=0o644)
