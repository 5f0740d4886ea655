"""A file system whose files share blocks, as every Mac has one: XFS in a file, where this host lets us mount it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


@contextlib.contextmanager
def mounted(directory: Path, size_bytes: int) -> Iterator[Path | None]:
    """Yields the mounted directory; None where it takes root or mkfs.xfs that is not there."""
    program = shutil.which("mkfs.xfs", path=_SYSTEM_PATH)
    if program is None or os.geteuid() != 0:
        yield None
        return
    backing, place = directory / "xfs.img", directory / "xfs"
    place.mkdir()
    with backing.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([program, "-q", "-m", "reflink=1", str(backing)], check=True)
    # Direct: what is written reaches the disk as without the file in between, and is not cached twice.
    device = _output("losetup", "--direct-io=on", "--show", "--find", str(backing))
    try:
        subprocess.run(["mount", device, str(place)], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        backing.unlink()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
