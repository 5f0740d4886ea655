"""The API server's side of a pod: its status subresource and its deletion (kubelet ``status_manager``)."""

import msgspec

from vzkubelet.errors import Conflict, Error, Forbidden, InvalidInput, NotFound
from vzkubelet.kube.client import Client, Patch
from vzkubelet.kube.paths import namespaced
from vzkubelet.model.identity import PodRef
from vzkubelet.model.pod import Pod

_OF_ANOTHER_POD = (
    "UID in precondition",  # 409 of a deletion, by the storage
    "UID in the precondition",  # 409 of a deletion, by the registry before it
    "uid mismatch",  # 409 of a patch that finds no object
    "metadata.uid: Invalid value",  # 422 of a patch
    "spec.nodeName set to itself",  # 403 of NodeRestriction: the pod of that name is on another node
)
"""How the API server says that the name belongs to another pod by now. Only the message tells it from other faults."""


class PodStatus:
    """`ports.PodStatusWriter` on the API server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def write_status(self, pod: Pod, patch: bytes) -> Pod:
        meta = pod.metadata
        body = msgspec.json.decode(patch, type=dict[str, msgspec.Raw])
        # The UID in the patch makes the API server refuse it for a pod of the same name (pkg/util/pod).
        body["metadata"] = msgspec.Raw(msgspec.json.encode({"uid": meta.uid}))
        path = namespaced(meta.namespace, "pods", meta.name, "status")
        try:
            return await self._client.patch(path, Patch.STRATEGIC, body, Pod)
        except (Conflict, InvalidInput, Forbidden) as exc:
            if _is_of_another_pod(exc):
                raise NotFound(f'pod "{meta.name}" ({meta.uid}) is gone: another one has its name') from exc
            raise

    async def delete(self, pod: PodRef) -> None:
        path = namespaced(pod.namespace, "pods", pod.name)
        try:
            await self._client.delete(path, grace_s=0, uid=pod.uid)
        except NotFound:
            return
        except (Conflict, Forbidden) as exc:
            if not _is_of_another_pod(exc):
                raise


def _is_of_another_pod(exc: Error) -> bool:
    return any(text in exc.message for text in _OF_ANOTHER_POD)
