"""The ports that an API server would fill, for pods that run without one."""

import sys
from collections.abc import Callable, Sequence

from vzkubelet import errors
from vzkubelet.model import objects
from vzkubelet.model import pod as api
from vzkubelet.model.identity import PodRef
from vzkubelet.pods.manifest import Manifest
from vzkubelet.ports import EventType


class LocalObjects:
    """`ports.Objects` of the ConfigMaps and Secrets in the pod's own file."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    async def secret(self, namespace: str, name: str) -> objects.Secret:
        try:
            return self._manifest.secrets[name]
        except KeyError as exc:
            raise errors.NotFound(f'secret "{name}" not found') from exc

    async def config_map(self, namespace: str, name: str) -> objects.ConfigMap:
        try:
            return self._manifest.config_maps[name]
        except KeyError as exc:
            raise errors.NotFound(f'configmap "{name}" not found') from exc

    async def services(self, namespace: str) -> Sequence[objects.Service]:
        return ()

    async def service_account_token(self, pod: api.Pod, audience: str, expiration_s: int) -> str:
        raise errors.Unsupported(
            "a pod without a cluster has no service account: remove the serviceAccountToken source"
        )


class LocalStatus:
    """`ports.PodStatusWriter` without anybody to write to: the worker keeps the status itself."""

    async def write_status(self, pod: api.Pod, patch: bytes) -> api.Pod:
        return pod

    async def delete(self, pod: PodRef) -> None:
        return None


class EventPrinter:
    """`ports.Recorder` that tells a person."""

    def __init__(self, write: Callable[[str], object] = sys.stderr.write) -> None:
        self._write = write

    def pod_event(
        self, pod: PodRef, type_: EventType, reason: str, message: str, container: str = "", init: bool = False
    ) -> None:
        where = f"{container}: " if container else ""
        self._write(f"{'! ' if type_ is EventType.WARNING else ''}{where}{reason}: {message}\n")

    def node_event(self, type_: EventType, reason: str, message: str) -> None:
        self._write(f"{reason}: {message}\n")
