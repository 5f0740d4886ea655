"""emptyDir volumes: a directory on disk, or a tmpfs for medium Memory."""

import os
import subprocess
import sys
from pathlib import Path

from vzkubelet.errors import InvalidInput, Unavailable, Unsupported, clip
from vzkubelet.model import pod as api
from vzkubelet.model import quantity
from vzkubelet.podstate import resources

MODE = 0o777
"""Any user of any container of the pod may write, as the kubelet has it."""
_COMMAND_TIMEOUT_S = 30


def prepare(path: Path, source: api.EmptyDirVolumeSource, memory_limit_bytes: int) -> None:
    """Make the directory; data of an earlier call stays. Blocking.

    `memory_limit_bytes` bounds a Memory volume, 0 = by the kernel's default (half of the memory).

    Raises:
        InvalidInput, Unsupported: a medium that is unknown or not offered here.
        Unavailable: the tmpfs could not be mounted.
        OSError: the directory cannot be made.
    """
    if source.medium not in {"", "Memory"}:
        raise InvalidInput(f'unknown storage medium "{source.medium}": use "" (disk) or Memory')
    if source.medium == "Memory" and not (sys.platform == "linux" and os.geteuid() == 0):
        raise Unsupported(
            "emptyDir medium Memory is a tmpfs, which this node can mount only on Linux as root: "
            "remove the medium or run the agent as root"
        )
    path.mkdir(exist_ok=True)
    if source.medium == "Memory" and not path.is_mount():
        options = [f"mode={MODE:o}", "nosuid", "nodev"]
        if memory_limit_bytes:
            options.append(f"size={memory_limit_bytes}")
        _run("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path))
    if path.stat().st_mode & 0o777 != MODE:
        path.chmod(MODE)


def unmount(path: Path) -> None:
    """Unmount the tmpfs where there is one. Blocking.

    Raises:
        Unavailable: it is still in use; try again.
    """
    if path.is_mount():
        _run("umount", str(path))


def memory_limit(pod: api.Pod, source: api.EmptyDirVolumeSource, allocatable_bytes: int) -> int:
    """Size of a Memory volume: the least of sizeLimit, the pod's memory limit and the node's memory; 0 = unknown."""
    limits = [resources.container_resources(container).memory_limit_bytes for container in pod.spec.containers]
    pod_limit = sum(limits) if all(limits) else 0
    size_limit = 0 if source.size_limit is None else quantity.to_int(source.size_limit)
    return min((limit for limit in (pod_limit, size_limit, allocatable_bytes) if limit > 0), default=0)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"{command[0]} failed: {exc}") from exc
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {clip(done.stderr) or f'exit status {done.returncode}'}")
