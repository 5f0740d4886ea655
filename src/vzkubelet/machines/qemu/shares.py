"""One virtiofsd per share: started before its QEMU, gone with it.

virtiofsd gets its socket as a listening descriptor, so QEMU can connect at once and no path is made outside the
machine's directory; it ends by itself when QEMU's connection closes. The C version (QEMU 7.2) knows no read-only mode
and the guest's own mount options bind only an honest guest, so a read-only share is served from a read-only bind mount
in a private mount namespace. That mount leaves out file systems mounted below the source: they would stay writable.
"""

import os
import re
from collections.abc import Sequence

from vzkubelet.errors import InvalidInput, MachineFault, Unsupported
from vzkubelet.machines.directory import MachineDirectory, listen
from vzkubelet.machines.process import Launch, ProcessRef, launch
from vzkubelet.machines.qemu.host import QemuHost
from vzkubelet.ports import Share

ROLE_PREFIX = "virtiofsd:"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}")
"""The virtio-fs device has 36 bytes for a tag (virtio 1.2, 5.11.4); the rest keeps it out of option syntax."""
_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def validate(shares: Sequence[Share]) -> None:
    """Raises InvalidInput naming the first share that cannot be served."""
    tags = set()
    for share in shares:
        if not _TAG.fullmatch(share.tag):
            raise InvalidInput(f"share tag {share.tag!r}: up to 36 letters, digits, '.', '_' and '-' are allowed")
        if share.tag in tags:
            raise InvalidInput(f"two shares have the tag {share.tag!r}")
        tags.add(share.tag)
        if "," in str(share.path):
            raise InvalidInput(f"cannot share {share.path}: virtiofsd takes no path with a comma")
        if not share.path.is_dir():
            raise InvalidInput(f"cannot share {share.path}: it is not a directory")


def are_possible(host: QemuHost) -> bool:
    """virtiofsd gives files their owners, so it has to be root."""
    return host.virtiofsd is not None and os.geteuid() == 0


def start(host: QemuHost, machine: MachineDirectory, share: Share) -> ProcessRef:
    """Start the server of one share. Raises: MachineFault, Unsupported, OSError."""
    if host.virtiofsd is None:
        raise Unsupported("shares need virtiofsd: apt-get install qemu-system-common (or virtiofsd)")
    if not share.path.is_dir():
        raise MachineFault(f"cannot share {share.path} with the guest: it is not a directory")
    prefix: list[str] = []
    if share.read_only:
        if host.unshare is None:
            raise Unsupported("read-only shares need unshare: apt-get install util-linux")
        prefix = [
            host.unshare,
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            _READ_ONLY,
            "sh",
            str(share.path),
        ]
    with listen(machine.share_socket(share.tag)) as server:
        descriptor = server.fileno()
        command = [*prefix, host.virtiofsd, f"--fd={descriptor}", "-o", f"source={share.path}", "-o", "cache=auto"]
        role = ROLE_PREFIX + share.tag
        log = machine.share_log(share.tag)
        return launch(Launch(command, machine.path, role, machine.path, log, pass_fds=(descriptor,)))
