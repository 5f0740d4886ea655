"""The file tree of a guest, held in memory, so that ownership, modes and order never come from the build host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Directory:
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Symlink:
    target: str


Node = Directory | File | Symlink


@dataclass(slots=True)
class Tree:
    """Nodes by absolute path, the root excluded. Parents of an added node are made as plain directories."""

    _nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, path: str, node: Node) -> None:
        """Put a node at an absolute, normalised path; a later node replaces an earlier one.

        Raises: ValueError when the path is not absolute and normalised, or runs through something that is no directory.
        """
        pure = PurePosixPath(path)
        if not pure.is_absolute() or str(pure) != path or ".." in pure.parts or pure.root != "/" or path == "/":
            raise ValueError(f"guest path {path!r} is not an absolute, normalised path below /")
        for parent in reversed(pure.parents[:-1]):
            present = self._nodes.setdefault(str(parent), Directory())
            if not isinstance(present, Directory):
                raise ValueError(f"guest path {path!r}: {parent} is not a directory")  # noqa: TRY004 - a wrong value
        self._nodes[path] = node

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every node, sorted by path components: a directory always comes before what is in it."""
        for path in sorted(self._nodes, key=lambda p: p.split("/")):
            yield path, self._nodes[path]

    def content_bytes(self) -> int:
        """Sum of the sizes of the regular files."""
        return sum(len(node.content) for node in self._nodes.values() if isinstance(node, File))
