"""The `newc` cpio archive that Linux unpacks as its initial root (kernel documentation, initramfs buffer format)."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from .tree import Directory, File, Symlink, Tree

_ALIGNMENT = 4


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)


def _entry(inode: int, name: str, mode: int, content: bytes, mtime_s: int, owner: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    uid, gid = owner
    # Fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check.
    numbers = (inode, mode, uid, gid, 1, mtime_s, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _entries(tree: Tree, mtime_s: int) -> Iterator[bytes]:
    inode = 0
    for inode, (path, node) in enumerate(tree.walk(), start=1):
        name = path.removeprefix("/")
        match node:
            case Directory(mode, uid, gid):
                yield _entry(inode, name, stat.S_IFDIR | mode, b"", mtime_s, (uid, gid))
            case File(content, mode, uid, gid):
                yield _entry(inode, name, stat.S_IFREG | mode, content, mtime_s, (uid, gid))
            case Symlink(target):
                yield _entry(inode, name, stat.S_IFLNK | 0o777, target.encode(), mtime_s, (0, 0))
    yield _entry(inode + 1, "TRAILER!!!", 0, b"", 0, (0, 0))


def archive(tree: Tree, mtime_s: int) -> bytes:
    """The tree as one uncompressed archive; every entry carries the same modification time."""
    return b"".join(_entries(tree, mtime_s))
