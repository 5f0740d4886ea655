"""virtiofsd for one share. Pure command lines; `qemu_process` starts them.

Several directories under one tag, and read-only ones (the C version of virtiofsd has no such mode), are bind mounts in
a mount namespace of the server's own: nothing of it is seen outside, and all of it ends with the server.
"""

import shlex

from .description import Share

_STAGE = "/mnt"
"""Covered with a file system in memory inside the server's own mount namespace."""


def command(virtiofsd: str, share: Share, descriptor: int) -> list[str]:
    """Arguments for the server that accepts on the listening socket `descriptor`."""
    single = share.directories.get("")
    if single is not None and not single.read_only:
        return _server(virtiofsd, descriptor, single.path)
    server = shlex.join(_server(virtiofsd, descriptor, _STAGE))
    script = "\n".join(["set -e", *_mounts(share), f"exec {server}"])
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]


def _server(virtiofsd: str, descriptor: int, source: str) -> list[str]:
    return [virtiofsd, f"--fd={descriptor}", "-o", f"source={source}", "-o", "cache=auto"]


def _mounts(share: Share) -> list[str]:
    lines = [] if "" in share.directories else [f"mount -t tmpfs -o mode=755 none {_STAGE}"]
    for name, directory in share.directories.items():
        target = shlex.quote(f"{_STAGE}/{name}" if name else _STAGE)
        if name:
            lines.append(f"mkdir {target}")
        lines.append(f"mount --bind {shlex.quote(directory.path)} {target}")
        if directory.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    return lines
