"""What goes back to the API server."""

from enum import StrEnum
from typing import Protocol

from vzkubelet.model.identity import PodRef
from vzkubelet.model.pod import Pod


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Recorder(Protocol):
    """Events about pods and the node. Never blocks, never fails the caller; bursts are counted, not lost silently."""

    def pod_event(
        self, pod: PodRef, type_: EventType, reason: str, message: str, container: str = "", init: bool = False
    ) -> None:
        """`container` sets involvedObject.fieldPath to ``spec.containers{name}``."""

    def node_event(self, type_: EventType, reason: str, message: str) -> None: ...


class PodStatusWriter(Protocol):
    """The API server's side of a pod. Standalone pods have a local one.

    - `write_status` is guarded by UID: a recreated pod of the same name is never touched. It returns the pod as stored.
      NotFound when the pod (that UID) is gone.
    - `delete` removes the object with grace 0 and the UID as precondition; a pod that is gone already is no error.
    """

    async def write_status(self, pod: Pod, patch: bytes) -> Pod:
        """`patch` is a strategic merge patch of the pod's status subresource, as JSON."""

    async def delete(self, pod: PodRef) -> None: ...
