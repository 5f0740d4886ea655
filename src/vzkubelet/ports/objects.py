"""What a pod refers to: volumes, and objects of the API server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vzkubelet.model.objects import ConfigMap, Secret, Service
from vzkubelet.model.pod import Pod


class Objects(Protocol):
    """Reads of API objects that a pod refers to. Standalone pods have a source of their own.

    Raises NotFound (``secret "x" not found``), Forbidden, Unavailable.
    """

    async def secret(self, namespace: str, name: str) -> Secret: ...

    async def config_map(self, namespace: str, name: str) -> ConfigMap: ...

    async def services(self, namespace: str) -> Sequence[Service]:
        """Services of the namespace and the API server's own (`default/kubernetes`), for service variables."""

    async def service_account_token(self, pod: Pod, audience: str, expiration_s: int) -> str: ...


class Volumes(Protocol):
    """The volumes of a pod as directories on this host.

    - `prepare` makes every volume of the pod present and complete, atomically per volume, and returns its host path by
      volume name; repeating it refreshes contents and keeps emptyDir data. Failures have reason FailedMount and name
      the volume: ``MountVolume.SetUp failed for volume "v" : …``.
    - `remove` deletes what belongs to the pod (never a hostPath) and may be repeated.
    """

    async def prepare(self, pod: Pod) -> Mapping[str, Path]: ...

    async def remove(self, uid: str) -> None: ...

    async def pods(self) -> Sequence[str]: ...
