"""virtiofsd for one share. Pure command lines; `guest` starts them.

Several directories under one tag, and read-only ones (the C version of virtiofsd has no such mode), are bind mounts in
a mount namespace of the server's own: nothing of it is seen outside, and all of it ends with the server.
"""

import shlex
from pathlib import Path

from .command_line import Share

_STAGE = "/mnt"
"""Covered with a file system in memory inside the server's own mount namespace."""


def command(virtiofsd: str, share: Share, descriptor: int) -> list[str]:
    """Arguments for the server that accepts on the listening socket `descriptor`."""
    single = share.directories[0] if len(share.directories) == 1 else None
    if single is not None and not single.name and not single.read_only:
        return _server(virtiofsd, descriptor, single.path)
    server = shlex.join(_server(virtiofsd, descriptor, Path(_STAGE)))
    script = "\n".join(["set -e", *_mounts(share), f"exec {server}"])
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]


def _server(virtiofsd: str, descriptor: int, source: Path) -> list[str]:
    return [virtiofsd, f"--fd={descriptor}", "-o", f"source={source}", "-o", "cache=auto"]


def _mounts(share: Share) -> list[str]:
    lines = []
    if any(directory.name for directory in share.directories):
        lines.append(f"mount -t tmpfs -o mode=755 none {_STAGE}")
    for directory in share.directories:
        source = shlex.quote(str(directory.path))
        target = shlex.quote(f"{_STAGE}/{directory.name}" if directory.name else _STAGE)
        if directory.name:
            lines.append(f"mkdir {target}")
        lines.append(f"mount --bind {source} {target}")
        if directory.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    return lines
