"""The guest's tree decides order, owners and modes; the build host decides nothing."""

import pytest

from tools.guest_image import cpio
from tools.guest_image.tree import Directory, File, Symlink, Tree


def test_parents_come_before_their_content_whatever_was_added_first() -> None:
    tree = Tree()
    tree.add("/b/c", File(b"1"))
    tree.add("/b-side", File(b"2"))
    tree.add("/a", Symlink("b"))
    assert [path for path, _ in tree.walk()] == ["/a", "/b", "/b/c", "/b-side"]
    assert tree["/b"] == Directory()
    assert tree.content_bytes() == 2


@pytest.mark.parametrize("path", ["", "/", "a", "/a/", "/a/../b", "//a", "/a//b", "/./a"])
def test_paths_that_could_leave_the_tree_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute, normalised path"):
        Tree().add(path, File(b""))


def test_nothing_goes_through_a_symlink() -> None:
    tree = Tree()
    tree.add("/sbin", Symlink("bin"))
    with pytest.raises(ValueError, match="/sbin is not a directory"):
        tree.add("/sbin/init", File(b""))


def test_archive_has_each_entry_aligned_and_a_trailer() -> None:
    tree = Tree()
    tree.add("/init", File(b"#!/bin/sh\n", 0o755))
    tree.add("/bin/sh", Symlink("busybox"))
    archive = cpio.archive(tree, 1_700_000_000)
    names, position = [], 0
    while position < len(archive):
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * at : position + 14 + 8 * at], 16) for at in range(13)]
        name = archive[position + 110 : position + 110 + fields[11] - 1].decode()
        content = position + (110 + fields[11] + 3) // 4 * 4
        names.append((name, oct(fields[1]), archive[content : content + fields[6]]))
        position = content + (fields[6] + 3) // 4 * 4
    assert names == [
        ("bin", "0o40755", b""),
        ("bin/sh", "0o120777", b"busybox"),
        ("init", "0o100755", b"#!/bin/sh\n"),
        ("TRAILER!!!", "0o0", b""),
    ]
