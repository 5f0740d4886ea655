"""Every volume of a pod as a directory: ``<root>/<pod uid>/volumes/<volume name>``."""

import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vzkubelet import aio, errors, files, ports
from vzkubelet.model import pod as api
from vzkubelet.podstate import environment
from vzkubelet.volumes import atomic, empty_dir, host_path
from vzkubelet.volumes.payload import Files, Payloads

_log = logging.getLogger(__name__)
_DIRECTORY = "volumes"
_SAFE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
REASON = "FailedMount"


class NodeFacts(Protocol):
    """What a downward API file or a Memory volume may ask of the node."""

    @property
    def allocatable_cpu_milli(self) -> int: ...

    @property
    def allocatable_memory_bytes(self) -> int: ...


class Volumes:
    """See `ports.Volumes`.

    A volume of API objects that was complete once stays usable when its objects cannot be read again: a container that
    restarts while the API server is away finds what it had, as with a kubelet.
    """

    def __init__(self, root: Path, objects: ports.Objects, node: Callable[[], NodeFacts]) -> None:
        self._root = root
        self._objects = objects
        self._node = node

    async def prepare(self, pod: api.Pod) -> Mapping[str, Path]:
        node = self._node()
        facts = environment.Facts(
            allocatable_cpu_milli=node.allocatable_cpu_milli, allocatable_memory_bytes=node.allocatable_memory_bytes
        )
        payloads = Payloads(pod, self._objects, facts)
        prepared: dict[str, Path] = {}
        for volume in pod.spec.volumes or []:
            try:
                prepared[volume.name] = await self._prepare(pod, volume, payloads)
            except errors.Error as exc:
                raise type(exc)(_failure(volume, exc.message), reason=REASON) from exc
            except OSError as exc:
                raise errors.Unavailable(_failure(volume, str(exc)), reason=REASON) from exc
        return prepared

    async def remove(self, uid: str) -> None:
        await aio.run_blocking(self._remove, uid)

    async def pods(self) -> Sequence[str]:
        return await aio.run_blocking(self._pods)

    async def _prepare(self, pod: api.Pod, volume: api.Volume, payloads: Payloads) -> Path:
        if volume.host_path is not None:
            return await aio.run_blocking(host_path.prepare, volume.host_path)
        path = self._path(pod.metadata.uid, volume.name)
        if volume.empty_dir is not None:
            source = volume.empty_dir
            limit_bytes = empty_dir.memory_limit(pod, source, self._node().allocatable_memory_bytes)
            await aio.run_blocking(_make_empty_dir, path, source, limit_bytes)
            return path
        try:
            content = await _content(volume, payloads)
        except errors.Error as exc:
            if not atomic.is_written(path):
                raise
            _log.warning("pod %s: volume %s keeps its old content: %s", pod.key, volume.name, exc)
            return path
        await aio.run_blocking(_write, path, content)
        return path

    def _path(self, uid: str, name: str) -> Path:
        if not _SAFE_NAME.fullmatch(name):
            raise errors.InvalidInput("its name is not a DNS label: use lower case letters, digits and '-'")
        return self._volumes_of(uid) / name

    def _volumes_of(self, uid: str) -> Path:
        if not _SAFE_NAME.fullmatch(uid):
            raise errors.InvalidInput(f'pod UID "{errors.clip(uid)}" cannot name a directory')
        return self._root / uid / _DIRECTORY

    def _remove(self, uid: str) -> None:
        directory = self._volumes_of(uid)
        try:
            for name in files.children(directory):
                empty_dir.unmount(directory / name)
            files.remove_tree(directory)
            with contextlib.suppress(OSError):  # not there, or the pod has other things in it
                directory.parent.rmdir()
        except OSError as exc:
            raise errors.Unavailable(f"volumes of pod {uid} cannot be removed: {exc}") from exc

    def _pods(self) -> list[str]:
        return [uid for uid in files.children(self._root) if (self._root / uid / _DIRECTORY).is_dir()]


async def _content(volume: api.Volume, payloads: Payloads) -> Files:
    if volume.config_map is not None:
        return await payloads.config_map(volume.config_map)
    if volume.secret is not None:
        return await payloads.secret(volume.secret)
    if volume.downward_api is not None:
        return payloads.downward_api(volume.downward_api)
    if volume.projected is not None:
        return await payloads.projected(volume.projected)
    raise errors.Unsupported(
        "it has no source that this node supports: use configMap, secret, downwardAPI, projected, emptyDir or hostPath"
    )


def _failure(volume: api.Volume, text: str) -> str:
    return f'MountVolume.SetUp failed for volume "{volume.name}" : {text}'


def _make_empty_dir(path: Path, source: api.EmptyDirVolumeSource, memory_limit_bytes: int) -> None:
    _make_parents(path)
    empty_dir.prepare(path, source, memory_limit_bytes)


def _write(path: Path, content: Files) -> None:
    _make_parents(path)
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)
    atomic.write(path, content)


def _make_parents(path: Path) -> None:
    """Closed to others: a mount of the volume itself does not pass through them."""
    for parent in (path.parent.parent, path.parent):
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
