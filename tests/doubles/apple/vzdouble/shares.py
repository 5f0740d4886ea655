"""Directories of the host in a guest: virtio-fs shares and Rosetta."""

import os
import re
import threading
from pathlib import Path
from typing import Any

from .description import Share, SharedDirectory
from .errors import INVALID_CONFIGURATION, NOT_SUPPORTED, make_error
from .faults import take_fault
from .generation import behaviour
from .host import current_host
from .objects import Failed, invalid_argument

AUTOMOUNT_TAG = "com.apple.virtio-fs.automount"
_LONGEST_TAG_BYTES = 35
_LONGEST_NAME_BYTES = 255


@behaviour("VZSharedDirectory")
class _SharedDirectory:
    def initWithURL_readOnly_(self: Any, url: Any, read_only: bool) -> None:
        if not url.isFileURL():
            raise invalid_argument("the URL of a shared directory must be a file URL")
        self._values |= {"URL": url, "isReadOnly": read_only}


@behaviour("VZSingleDirectoryShare")
class _Single:
    def initWithDirectory_(self: Any, directory: Any) -> None:
        self._values["directory"] = directory


@behaviour("VZMultipleDirectoryShare")
class _Multiple:
    def init(self: Any) -> None:
        self._values["directories"] = {}

    def initWithDirectories_(self: Any, directories: Any) -> None:
        for name in directories._items:
            reason = _name_fault(name)
            if reason:
                raise invalid_argument(reason)
        self._values["directories"] = dict(directories._items)

    @classmethod
    def validateName_error_(cls: Any, name: str) -> None:
        reason = _name_fault(name)
        if reason:
            raise Failed(INVALID_CONFIGURATION, reason)

    @classmethod
    def canonicalizedNameFromName_(cls: Any, name: str) -> str | None:
        cleaned = re.sub(r"[/:\x00-\x1f]", "_", name).encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore")
        return None if _name_fault(cleaned) else cleaned


def _name_fault(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or ":" in name or "\0" in name:
        return f"Invalid directory share name: {name!r}"
    return "" if len(name.encode()) <= _LONGEST_NAME_BYTES else f"The directory share name is too long: {name!r}"


@behaviour("VZVirtioFileSystemDeviceConfiguration")
class _FileSystem:
    def initWithTag_(self: Any, tag: str) -> None:
        if tag_fault(tag):
            raise invalid_argument(tag_fault(tag))
        self._values["tag"] = tag

    def setTag_(self: Any, tag: str) -> None:
        if tag_fault(tag):
            raise invalid_argument(tag_fault(tag))
        self._values["tag"] = tag

    @classmethod
    def validateTag_error_(cls: Any, tag: str) -> None:
        if tag_fault(tag):
            raise Failed(INVALID_CONFIGURATION, tag_fault(tag))

    @classmethod
    def macOSGuestAutomountTag(cls: Any) -> str:
        return AUTOMOUNT_TAG


def tag_fault(tag: str) -> str:
    if not tag:
        return "The tag of a directory sharing device must not be empty."
    if len(tag.encode()) > _LONGEST_TAG_BYTES:
        return f"The tag {tag!r} is longer than {_LONGEST_TAG_BYTES} bytes."
    return ""


@behaviour("VZLinuxRosettaDirectoryShare")
class _Rosetta:
    def initWithError_(self: Any) -> None:
        if current_host().settings().rosetta != "installed":
            raise Failed(NOT_SUPPORTED, "Rosetta is not installed.")

    @classmethod
    def availability(cls: Any) -> int:
        return {"not-supported": 0, "not-installed": 1, "installed": 2}[current_host().settings().rosetta]

    @classmethod
    def installRosettaWithCompletionHandler_(cls: Any, handler: Any) -> None:
        fault = take_fault(current_host(), "install-rosetta")
        if not fault.never:
            error = make_error(fault) if fault.code is not None else None
            threading.Thread(target=handler, args=(error,), daemon=True).start()


@behaviour("VZLinuxRosettaUnixSocketCachingOptions")
class _UnixSocketCaching:
    def initWithPath_error_(self: Any, path: str) -> None:
        if not path or len(path.encode()) > _LONGEST_NAME_BYTES:
            raise Failed(INVALID_CONFIGURATION, f"Invalid path: {path!r}")
        self._values["path"] = path

    @classmethod
    def maximumPathLength(cls: Any) -> int:
        return _LONGEST_NAME_BYTES


@behaviour("VZLinuxRosettaAbstractSocketCachingOptions")
class _AbstractSocketCaching:
    def initWithName_error_(self: Any, name: str) -> None:
        if not name or len(name.encode()) > _LONGEST_NAME_BYTES:
            raise Failed(INVALID_CONFIGURATION, f"Invalid name: {name!r}")
        self._values["name"] = name

    @classmethod
    def maximumNameLength(cls: Any) -> int:
        return _LONGEST_NAME_BYTES


def describe_share(tag: str, share: Any) -> Share:
    """A VZDirectoryShare (or nil) as plain data."""
    if share is None:
        return Share(tag, {})
    kind = type(share).__name__
    if kind == "VZSingleDirectoryShare":
        return Share(tag, {"": _directory(share._values["directory"])})
    if kind == "VZMultipleDirectoryShare":
        directories = share._values["directories"]
        return Share(tag, {str(name): _directory(directory) for name, directory in directories.items()})
    return Share(tag, {}, rosetta=True)


def share_fault(share: Share) -> str:
    """Why the framework would refuse this share, or nothing."""
    for directory in share.directories.values():
        path = Path(directory.path)
        if not path.is_dir():
            return f"The shared directory {path} does not exist."
        if not os.access(path, os.R_OK | (0 if directory.read_only else os.W_OK)):
            return f"The shared directory {path} cannot be accessed."
    return ""


def _directory(directory: Any) -> SharedDirectory:
    return SharedDirectory(str(directory._values["URL"].path()), directory._values["isReadOnly"])
