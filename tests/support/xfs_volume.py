"""A file system whose files can share blocks, as APFS' can: XFS in a file, on a loop device. Needs root."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def xfs_volume(directory: Path, size_bytes: int = 512 * 1024 * 1024) -> Iterator[Path]:
    """Mounted below `directory` while it is entered."""
    backing, mounted = directory / "xfs.img", directory / "xfs"
    mounted.mkdir()
    with backing.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.xfs", "-q", "-m", "reflink=1", str(backing))
    _run("mount", "-o", "loop", str(backing), str(mounted))
    try:
        yield mounted
    finally:
        _run("umount", str(mounted))


def _run(*command: str) -> None:
    found = shutil.which(command[0], path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert found, f"{command[0]} is not installed: run `make setup`"
    subprocess.run([found, *command[1:]], check=True)
